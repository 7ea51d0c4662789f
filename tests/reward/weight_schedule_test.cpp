// SPDX-License-Identifier: Apache-2.0
#include "reward/weight_schedule.h"

#include <gtest/gtest.h>

#include "reward/rewards.h"

namespace biqa {
namespace {

TEST(WeightSchedule, IsLinearBetweenItsPointsAndConstantOutside) {
  const WeightSchedule weight({{10, 1}, {20, 3}, {24, 2}});
  EXPECT_EQ(weight.at(1), 1);
  EXPECT_EQ(weight.at(10), 1);
  EXPECT_DOUBLE_EQ(weight.at(11), 1.2);
  EXPECT_DOUBLE_EQ(weight.at(15), 2);
  EXPECT_EQ(weight.at(20), 3);
  EXPECT_DOUBLE_EQ(weight.at(23), 2.25);
  EXPECT_EQ(weight.at(24), 2);
  EXPECT_EQ(weight.at(1000), 2);
  EXPECT_FALSE(weight.constant());
  EXPECT_EQ(weight.text(), "{10: 1, 20: 3, 24: 2}");
}

TEST(WeightSchedule, ANumberIsAConstant) {
  const WeightSchedule weight = 0.5;
  for (const std::int64_t step : {-1, 0, 1, 1000000}) EXPECT_EQ(weight.at(step), 0.5);
  EXPECT_TRUE(weight.constant());
  EXPECT_EQ(weight.text(), "0.5");
}

TEST(WeightScheduleDeathTest, StepsAscend) {
  EXPECT_DEATH(WeightSchedule({{2, 1}, {2, 3}}), "Check failed");
  EXPECT_DEATH(WeightSchedule(std::vector<WeightSchedule::Point>{}), "Check failed");
}

TEST(WeightSchedule, TheSumOfTheRewardsHasTheWeightsOfItsStep) {
  Group group;
  group.members.resize(1);
  group.members[0].text = "<caption>c</caption><reasoning>r</reasoning><rating>3</rating>";
  RewardConfig config;
  config.weights.assign(rewards().size(), 0.0);
  config.weights[reward_column("format")] = WeightSchedule({{0, 0}, {10, 4}});
  for (const std::int64_t step : {1, 5, 10, 11}) {
    group.step = step;
    score(group, config, named_profile("paper"));
    EXPECT_DOUBLE_EQ(group.members[0].reward,
                     0.5 * 4 * static_cast<double>(std::min<std::int64_t>(step, 10)) / 10);
  }
}

TEST(Credit, EveryPartEarnsTheRewardsThatItsTextDecides) {
  const auto earned = [](CompletionPart part, const RewardConfig& config) {
    std::string names;
    for (const Reward& reward : rewards()) {
      if (earns_credit(reward, part, config)) names += std::string(reward.name) + " ";
    }
    return names;
  };
  RewardConfig config;
  EXPECT_EQ(earned(CompletionPart::caption, config), "consistency reasoning format ");
  EXPECT_EQ(earned(CompletionPart::reasoning, config), "reasoning format ");
  EXPECT_EQ(earned(CompletionPart::rating, config), "prediction format ");
  EXPECT_EQ(earned(CompletionPart::second_stage, config), "consistency ");
  // The second stage reads the reasoning too, and only the caption is compared with the human text.
  config.second_stage_reads_reasoning = true;
  config.rouge_span = RougeSpan::caption;
  EXPECT_EQ(earned(CompletionPart::caption, config), "consistency reasoning format ");
  EXPECT_EQ(earned(CompletionPart::reasoning, config), "consistency format ");
}

}  // namespace
}  // namespace biqa
