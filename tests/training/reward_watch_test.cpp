// SPDX-License-Identifier: Apache-2.0
#include "training/reward_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RewardWatchTest : public ::testing::Test {
 protected:
  /// The next step, in which only the reward `name` stands still.
  std::vector<std::string> step(RewardWatch& watch, std::string_view name, double mean, double deviation) {
    StepMetrics m;
    m.step = ++step_;
    for (std::size_t i = 0; i < rewards().size(); ++i) {
      m.reward_means[i] = 0.01 * static_cast<double>(step_);
      m.reward_stds[i] = 0.1;
    }
    m.reward_means[reward_column(name)] = mean;
    m.reward_stds[reward_column(name)] = deviation;
    return watch.look_at(m);
  }

  Config config_;
  std::int64_t step_ = 0;
};

TEST_F(RewardWatchTest, ARewardThatIsTheSameForAllIsNamedOnceUntilItIsNot) {
  config_.rewards.stall_steps = 0;
  RewardWatch watch(config_);
  EXPECT_THAT(step(watch, "prediction", 0, 0),
              ElementsAre(HasSubstr("reward prediction is 0 for every completion")));
  for (int i = 0; i < 20; ++i) EXPECT_THAT(step(watch, "prediction", 0, 0), IsEmpty());
  EXPECT_THAT(step(watch, "prediction", 0.2, 0), IsEmpty()) << "it is still the same for all of a step";
  EXPECT_THAT(step(watch, "prediction", 0.2, 0.1), IsEmpty());
  EXPECT_THAT(step(watch, "prediction", 0, 0), ElementsAre(HasSubstr("reward prediction is 0")));
}

TEST_F(RewardWatchTest, ARewardThatHasNotMovedIsNamedOnceUntilItMoves) {
  config_.rewards.stall_steps = 3;
  RewardWatch watch(config_);
  const auto named =
      ElementsAre(AllOf(HasSubstr("reward reasoning has not moved for 3 steps: mean 0.3, deviation 0.1"),
                        HasSubstr("look for: images without human texts")));
  for (int i = 0; i < 2; ++i) EXPECT_THAT(step(watch, "reasoning", 0.3, 0.1), IsEmpty());
  EXPECT_THAT(step(watch, "reasoning", 0.3 + 1e-12, 0.1), named) << "the rounding of a mean is no move";
  for (int i = 0; i < 10; ++i) EXPECT_THAT(step(watch, "reasoning", 0.3, 0.1), IsEmpty());
  EXPECT_THAT(step(watch, "reasoning", 0.3, 0.2), IsEmpty()) << "the deviation moves";
  for (int i = 0; i < 2; ++i) EXPECT_THAT(step(watch, "reasoning", 0.3, 0.1), IsEmpty());
  EXPECT_THAT(step(watch, "reasoning", 0.3, 0.1), named);
  // A slow drift is a move.
  for (int i = 1; i < 10; ++i) EXPECT_THAT(step(watch, "reasoning", 0.3 + 6e-10 * i, 0.1), IsEmpty());
}

TEST_F(RewardWatchTest, AFullFormatRewardIsTheAimAndNoneAtAllIsNot) {
  config_.rewards.stall_steps = 2;
  RewardWatch watch(config_);
  for (int i = 0; i < 4; ++i) EXPECT_THAT(step(watch, "format", 0.5, 0), IsEmpty());
  EXPECT_THAT(step(watch, "format", 0, 0), ElementsAre(HasSubstr("reward format is 0")));
  EXPECT_THAT(step(watch, "format", 0, 0), ElementsAre(HasSubstr("reward format has not moved for 2 steps")));
}

TEST_F(RewardWatchTest, OnlyRewardsInUseAreWatched) {
  config_.rewards.stall_steps = 2;
  config_.rewards.weights[reward_column("prediction")] = 0;
  config_.rewards.weights[reward_column("reasoning")] = WeightSchedule({{2, 0}, {3, 1}});
  config_.stage2.enabled = false;
  RewardWatch watch(config_);
  for (int i = 0; i < 2; ++i)
    EXPECT_THAT(step(watch, "reasoning", 0.1, 0), IsEmpty()) << "its weight is still 0";
  EXPECT_THAT(step(watch, "reasoning", 0.1, 0), ElementsAre(HasSubstr("reward reasoning is 0.1")));
  for (int i = 0; i < 4; ++i) EXPECT_THAT(step(watch, "prediction", 0, 0), IsEmpty());
  for (int i = 0; i < 4; ++i) EXPECT_THAT(step(watch, "consistency", 0, 0), IsEmpty());
  config_.stage2.enabled = true;
  EXPECT_THAT(step(watch, "consistency", 0, 0), ElementsAre(HasSubstr("reward consistency is 0")));
}

}  // namespace
}  // namespace biqa
