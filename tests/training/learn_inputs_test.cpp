// SPDX-License-Identifier: Apache-2.0
// Which answers a learner gets, under which mask, names and dropout.
#include "training/learn_inputs.h"

#include <gtest/gtest.h>

#include <set>

#include "support/tiny_model.h"

namespace biqa {
namespace {

class LearnInputsTest : public ::testing::Test {
 protected:
  LearnInputsTest() : model_(testing::load(files_, DType::f32)) {
    config_.rollout.group_size = 2;
    config_.objective.drop_zero_variance = true;
    for (std::int64_t g = 0; g < 2; ++g) {
      Group& group = groups_.emplace_back();
      group.sample_id = "sample " + std::to_string(g);
      group.step = 3;
      group.prompt_ids = {1, 2, TinyModelImage, 3};
      for (std::int64_t m = 0; m < 2; ++m) {
        Trajectory& t = group.members.emplace_back();
        t.member = m;
        t.completion_ids.assign(static_cast<std::size_t>(3 + m), 5);
        t.behaviour_logp.assign(t.completion_ids.size(), -1.0F);
        t.finished = m == 0;
        t.advantage = m == 0 ? 0.5 : -0.5;
        t.stage2_advantage = m == 0 ? 0.25 : -0.25;
        t.rewards.assign(rewards().size(), g == 0 ? static_cast<double>(m) : 1.0);
        t.stage2_prompt_ids = {1, 2};
        t.stage2_completion_ids = {7, 8};
        t.stage2_behaviour_logp = {-1, -2};
        t.stage2_finished = m == 1;
      }
    }
    // One token of features.
    picture_.grid = {1, 2, 2};
    const auto features = std::make_shared<Tensor>(DType::f32, 1, model_->config().text.hidden, "features");
    features->zero();
    picture_.features = features;
  }
  LearnInputs inputs() const {
    LearnInputs all(groups_, config_, model_->config());
    for (std::size_t g = 0; g < groups_.size(); ++g) all.add(g, picture_);
    return all;
  }

  static constexpr std::int64_t TinyModelImage = testing::TinyModel::kImageToken;
  testing::TinyModel files_;
  std::unique_ptr<QwenVl> model_;
  Config config_;
  std::vector<Group> groups_;
  EncodedPicture picture_;
};

TEST_F(LearnInputsTest, AGroupBecomesOnePromptWithItsAnswers) {
  const LearnInputs all = inputs();
  ASSERT_EQ(all.groups().size(), 2U);
  const LearnerGroup& first = all.groups()[0];
  EXPECT_EQ(first.prompt->ids, groups_[0].prompt_ids);
  EXPECT_EQ(first.name, "sample 0");
  EXPECT_EQ(first.dropout_key, dropout_key(groups_[0]));
  ASSERT_EQ(first.sequences.size(), 2U);
  EXPECT_EQ(first.sequences[1].completion.data(), groups_[0].members[1].completion_ids.data());
  EXPECT_EQ(first.sequences[1].advantage, -0.5);
  EXPECT_EQ(first.sequences[1].member, 1U);
  EXPECT_TRUE(first.sequences[1].mask.empty());  // every token counts
  // All answers to the second picture are rewarded alike.
  EXPECT_FALSE(first.dropped);
  EXPECT_TRUE(all.groups()[1].dropped);
  EXPECT_EQ(dropped_groups(groups_, config_), (std::vector<bool>{false, true}));
  config_.objective.drop_zero_variance = false;
  EXPECT_EQ(dropped_groups(groups_, config_), (std::vector<bool>{false, false}));
}

TEST_F(LearnInputsTest, TokensHaveTheirOwnAdvantagesIfTheTrajectoryHasThem) {
  groups_[0].members[1].token_advantages = {1, 2, 3, 4};
  const LearnInputs all = inputs();
  EXPECT_TRUE(all.groups()[0].sequences[0].token_advantages.empty());
  EXPECT_EQ(all.groups()[0].sequences[1].token_advantages.data(),
            groups_[0].members[1].token_advantages.data());
  EXPECT_EQ(all.groups()[0].sequences[1].token_advantages.size(), 4U);
}

TEST_F(LearnInputsTest, TruncatedAnswersAreMasked) {
  config_.objective.mask_truncated = true;
  const LearnInputs all = inputs();
  EXPECT_TRUE(all.groups()[0].sequences[0].mask.empty());
  const std::span<const float> mask = all.groups()[0].sequences[1].mask;
  ASSERT_EQ(mask.size(), 4U);
  for (const float m : mask) EXPECT_EQ(m, 0);
  EXPECT_TRUE(counts(true, config_));
  EXPECT_FALSE(counts(false, config_));
}

TEST_F(LearnInputsTest, SecondStagesFollowTheirGroupWhereTheyAreTrained) {
  config_.stage2.train = true;
  groups_[0].members[1].stage2_completion_ids.clear();  // it had no caption
  const LearnInputs all = inputs();
  ASSERT_EQ(all.groups().size(), 2U + 1 + 2);
  const LearnerGroup& second = all.groups()[1];
  EXPECT_EQ(second.prompt->ids, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(second.name, "sample 0 (from the caption)");
  ASSERT_EQ(second.sequences.size(), 1U);
  EXPECT_EQ(second.sequences[0].advantage, 0.25);
  EXPECT_EQ(second.dropout_key, stage2_dropout_key(groups_[0], 0));
  EXPECT_TRUE(all.groups()[3].dropped);
  EXPECT_TRUE(all.groups()[4].dropped);
  std::set<std::uint64_t> keys;
  for (const LearnerGroup& group : all.groups()) keys.insert(group.dropout_key);
  EXPECT_EQ(keys.size(), all.groups().size());
}

TEST_F(LearnInputsTest, AdvantagesUseTheWeightsOfTheConfiguration) {
  const Advantages advantages = advantages_of(groups_, config_);
  EXPECT_LT(advantages.values[0], 0);
  EXPECT_GT(advantages.values[1], 0);
  EXPECT_EQ(advantages.values[2], 0);
  EXPECT_EQ(advantages.zero_variance_fraction, 0.5);
  std::fill(config_.rewards.weights.begin(), config_.rewards.weights.end(), 0.0);
  EXPECT_EQ(advantages_of(groups_, config_).zero_variance_fraction, 1);
}

}  // namespace
}  // namespace biqa
