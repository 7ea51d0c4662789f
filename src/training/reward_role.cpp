// SPDX-License-Identifier: Apache-2.0
#include "training/reward_role.h"

#include <utility>
#include <vector>

#include "data/wire.h"
#include "reward/rewards.h"
#include "training/clock.h"
#include "training/messages.h"

namespace biqa {

RewardRole::RewardRole(const Config& config, Communicator& world, const RolePlan& roles,
                       std::unique_ptr<TextJudge> judge)
    : config_(config),
      world_(world),
      roles_(roles),
      judge_(std::move(judge)),
      inbox_(world, kTagGroup, "a rolled-out group") {}

double RewardRole::score_step(std::int64_t step, std::span<const std::size_t> rows) {
  double seconds = 0;
  for (const std::size_t row : rows) {
    if (roles_.reward_rank_of(row) != world_.rank()) continue;
    Group group = inbox_.next(step);
    const auto begin = Clock::now();
    score(group, config_.rewards, config_.prompts.texts.profile, judge_.get());
    seconds += seconds_since(begin);
    const std::vector<std::byte> bytes = serialise(group);
    for (const int learner : roles_.learners) world_.send(learner, kTagScored, bytes);
  }
  return seconds;
}

}  // namespace biqa
