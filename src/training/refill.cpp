// SPDX-License-Identifier: Apache-2.0
#include "training/refill.h"

#include <glog/logging.h>

#include <algorithm>
#include <vector>

namespace biqa {
namespace {

bool is_first_learner(const StepRoles& own) {
  return own.world.rank() == own.roles.learners.front();
}

/// The learners know the number; returns it on every rank.
std::size_t share_lacking(const StepRoles& own, std::size_t lacking) {
  if (is_first_learner(own)) {
    for (int rank = 0; rank < own.world.size(); ++rank) {
      if (!own.roles.is_learner(rank)) send_lacking(own.world, rank, lacking);
    }
  }
  return own.learner != nullptr ? lacking : receive_lacking(own.world, own.roles.learners.front());
}

}  // namespace

void refill_step(const StepRoles& own, const RolloutOptions& options, StepReport& report) {
  const std::int64_t step = options.step;
  std::vector<std::size_t> rows = own.data.rows_of_step(step);
  const std::size_t wanted = rows.size();
  std::size_t drawn = 0, lacking = 0;
  for (std::int64_t round = 0;; ++round) {
    if (own.learner != nullptr) lacking = wanted - std::min(wanted, own.learner->receive(step, rows));
    if (round == own.config.rollout.refill_rounds) break;
    lacking = share_lacking(own, lacking);
    rows = own.data.further_rows(step, drawn, lacking);
    if (rows.empty()) break;
    drawn += rows.size();
    if (own.actor != nullptr) {
      const ActorRole::RolloutSeconds seconds = own.actor->roll_out(options, rows);
      report.rollout += seconds.all;
      report.stage2 += seconds.stage2;
    }
    if (own.reward != nullptr) report.reward += own.reward->score_step(step, rows);
  }
  if (is_first_learner(own) && lacking > 0) {
    LOG(WARNING) << "step " << step << ": only " << wanted - lacking << " of " << wanted
                 << " groups have any variance of rewards, after " << drawn
                 << " further images; the step goes on with these groups";
  }
}

}  // namespace biqa
