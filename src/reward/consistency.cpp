// SPDX-License-Identifier: Apache-2.0
#include "data/response.h"
#include "reward/closeness.h"
#include "reward/table.h"

namespace biqa {

double consistency_reward(const RewardInput& input) {
  const Trajectory& t = input.trajectory;
  if (!t.rating) return 0;
  if (input.config.penalise_leak && t.caption && leaks_rating(*t.caption, *t.rating)) return 0;
  return closeness(t.stage2_rating, input.group.annotation.score, input.config);
}

}  // namespace biqa
