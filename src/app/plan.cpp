// SPDX-License-Identifier: Apache-2.0
#include "app/plan.h"

namespace biqa {
RunPlan make_plan(const Config& config, int ranks) {
  RunPlan plan;
  plan.roles = plan_roles(config.roles, ranks);
  plan.ranks = ranks;
  return plan;
}
std::string describe_plan(const RunPlan& plan) { return plan.roles.describe() + "\n"; }
std::int64_t RunPlan::memory_bytes() const { return 0; }
double RunPlan::step_seconds() const { return 0; }
}  // namespace biqa
