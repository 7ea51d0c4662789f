// SPDX-License-Identifier: Apache-2.0
#include "reward/rewards.h"

#include <glog/logging.h>

#include "data/response.h"

namespace biqa {

void score(Group& group, const RewardConfig& config, const Profile& profile, TextJudge* judge) {
  CHECK(judge != nullptr || config.reasoning_kind == ReasoningKind::rouge);
  CHECK_EQ(config.weights.size(), rewards().size());
  const std::vector<double> weights = weights_at(config.weights, group.step);
  for (Trajectory& member : group.members) {
    Stage1Response response = parse_stage1(profile, member.text);
    member.format_ok = response.format_ok;
    member.caption = std::move(response.caption);
    member.reasoning = std::move(response.reasoning);
    member.rating = response.rating;
    member.stage2_rating = parse_stage2(profile, member.stage2_text);

    member.rewards.clear();
    member.reward = 0;
    for (const Reward& reward : rewards()) {
      const double value = reward.value({group, member, config, profile, judge});
      member.reward += weights[member.rewards.size()] * value;
      member.rewards.push_back(value);
    }
  }
}

}  // namespace biqa
