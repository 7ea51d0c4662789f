// SPDX-License-Identifier: Apache-2.0
#include "training/step_figures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace biqa {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Trajectory answer(double reward, std::size_t tokens, std::optional<double> rating, std::int64_t version) {
  Trajectory t;
  t.reward = reward;
  t.rewards.assign(rewards().size(), 0.0);
  t.rewards[0] = reward;
  t.completion_ids.assign(tokens, 1);
  t.stage2_completion_ids.assign(2, 1);
  t.rating = rating;
  t.policy_version = version;
  t.finished = tokens < 8;
  return t;
}

std::vector<Group> two_groups() {
  std::vector<Group> groups(2);
  groups[0].members = {answer(1, 4, 3.5, 6), answer(2, 8, std::nullopt, 6)};
  groups[1].members = {answer(3, 4, 2.0, 5), answer(6, 8, 4.0, 6)};
  groups[0].members[0].caption = "one two three";
  groups[0].members[0].reasoning = "one two three four";
  groups[1].members[0].caption = "rated 2.00, so.";
  groups[1].members[1].stage2_rating = 3.0;
  return groups;
}

TEST(StepFigures, FollowFromTheTrajectories) {
  const StepMetrics m = figures_of(two_groups(), 7, Config());
  EXPECT_EQ(m.images, 2);
  EXPECT_EQ(m.trajectories, 4);
  EXPECT_EQ(m.generated_tokens, 24);
  EXPECT_EQ(m.stage2_tokens, 8);
  EXPECT_EQ(m.policy_lag_max, 2);
  EXPECT_EQ(m.reward_mean, 3);
  EXPECT_DOUBLE_EQ(m.reward_std, std::sqrt(14.0 / 3));
  EXPECT_EQ(m.reward_means[0], 3);
  EXPECT_EQ(m.reward_means[1], 0);
  EXPECT_EQ(m.reward_stds[1], 0);
  EXPECT_EQ(m.reward_weights, std::vector<double>(rewards().size(), 1.0));
  EXPECT_EQ(m.parse_rate, 0.75);
  EXPECT_EQ(m.stage2_parse_rate, 0.25);
  EXPECT_EQ(m.truncated_fraction, 0.5);
  EXPECT_EQ(m.length_mean, 6);
  EXPECT_EQ(m.caption_words, 3);
  EXPECT_EQ(m.reasoning_words, 4);
  EXPECT_EQ(m.leak_rate, 0.5);
}

/// One layer of width 2 and one head of it, an MLP of width 3 and 5 ids: 2·(4·2·2 + 3·2·3) = 68 operations a row, 4·2 a
/// row and key, 20 a row of logits.
TEST(StepFigures, OperationsOfAStepAreThoseOfItsTokens) {
  ModelConfig model;
  model.text.hidden = model.text.head_dim = 2;
  model.text.layers = model.text.heads = model.text.kv_heads = 1;
  model.text.intermediate = 3;
  model.text.vocab = 5;
  std::vector<Group> groups(1);
  groups[0].prompt_ids.assign(10, 1);
  groups[0].members = {answer(1, 4, 3.5, 6), answer(2, 7, 3.0, 6)};
  for (Trajectory& t : groups[0].members) t.stage2_completion_ids.clear();
  const double prompt = 10 * (68 + 8 * 5);
  const double short_one = 3 * (68 + 8 * 11.5) + 4 * 20, long_one = 6 * (68 + 8 * 13) + 7 * 20;
  const double pass = prompt + short_one + long_one;
  Config config;
  config.objective.loss.beta = 0.1;
  EXPECT_DOUBLE_EQ(step_flop(model, groups, config), (1 + 3) * pass);
  config.objective.updates_per_rollout = 2;
  EXPECT_DOUBLE_EQ(step_flop(model, groups, config), (1 + 2 * 3) * pass);
  config.objective.loss.beta = 0;
  config.objective.updates_per_rollout = 1;
  EXPECT_DOUBLE_EQ(step_flop(model, groups, config), (1 + 2) * pass);
  groups[0].members[0].stage2_prompt_ids.assign(6, 1);
  groups[0].members[0].stage2_completion_ids.assign(3, 1);
  const double second = 6 * (68 + 8 * 3) + 2 * (68 + 8 * 7) + 3 * 20;
  EXPECT_DOUBLE_EQ(step_flop(model, groups, config), 3 * pass + second);
  config.stage2.train = true;
  EXPECT_DOUBLE_EQ(step_flop(model, groups, config), 3 * pass + 3 * second);
}

TEST(StepFigures, SpeedIsThatOfTheRolloutAndOfThePeakWhereMeasured) {
  StepMetrics m;
  EXPECT_EQ(speed_text(m), "");
  m.generated_tokens = 900;
  m.stage2_tokens = 100;
  m.rollout_seconds = 2;
  m.trained_tokens = 700;
  m.learn_seconds = 7;
  EXPECT_EQ(speed_text(m), "  500 tokens/s");
  m.mfu = 0.314;
  EXPECT_EQ(speed_text(m), "  500 tokens/s  mfu 31.4 %");
  m.generated_tokens = 0;
  m.mfu = kNotMeasured;
  EXPECT_EQ(speed_text(m), "  100 tokens/s");
}

TEST(StepFigures, WeightsAreThoseOfTheStep) {
  Config config;
  config.rewards.weights[1] = WeightSchedule({{0, 0}, {10, 1}});
  std::vector<Group> groups = two_groups();
  for (Group& group : groups) group.step = 3;
  const StepMetrics m = figures_of(groups, 2, config);
  EXPECT_EQ(m.reward_weights[0], 1);
  EXPECT_DOUBLE_EQ(m.reward_weights[1], 0.3);
}

TEST(StepFigures, WhatWasNotDoneIsNotMeasured) {
  const StepMetrics nothing = figures_of({}, 7, Config());
  EXPECT_EQ(nothing.trajectories, 0);
  EXPECT_TRUE(std::isnan(nothing.reward_mean));
  EXPECT_TRUE(std::isnan(nothing.parse_rate));
  Config config;
  config.stage2.enabled = false;
  EXPECT_TRUE(std::isnan(figures_of(two_groups(), 7, config).stage2_parse_rate));
}

TEST(StepFigures, ARecordHasTheTrajectorysTextsAndRewardsByName) {
  const Group group = two_groups()[0];
  const SampleRecord record = record_of(3, group, group.members[0], Config());
  EXPECT_EQ(record.step, 3);
  EXPECT_EQ(record.caption, "one two three");
  EXPECT_EQ(record.rating, 3.5);
  EXPECT_EQ(record.stage2_rating, std::nullopt);
  EXPECT_EQ(record.rewards.size(), rewards().size());
  EXPECT_EQ(record.rewards.at(std::string(rewards()[0].name)), 1);
}

/// A step in which nothing is wrong.
StepMetrics healthy() {
  StepMetrics m;
  m.parse_rate = 1;
  m.actor_learner_logp_gap = 0;
  std::fill(m.reward_means.begin(), m.reward_means.end(), 0.5);
  std::fill(m.reward_stds.begin(), m.reward_stds.end(), 0.1);
  return m;
}

TEST(Doubts, NoneAboutAHealthyStep) {
  EXPECT_THAT(doubts_about(healthy(), Config(), true), IsEmpty());
}

TEST(Doubts, FewRatings) {
  StepMetrics m = healthy();
  m.parse_rate = 0.25;
  EXPECT_THAT(doubts_about(m, Config(), true),
              ElementsAre(HasSubstr("only 25 % of the completions have a rating")));
}

TEST(Doubts, ActorAndLearnerMustAgreeOnPolicy) {
  StepMetrics m = healthy();
  m.actor_learner_logp_gap = 1e-6;
  EXPECT_THAT(doubts_about(m, Config(), true), ElementsAre(HasSubstr("actor and learner disagree")));
  EXPECT_THAT(doubts_about(m, Config(), false), IsEmpty());
  Config config;
  config.lora.dropout = 0.1;
  EXPECT_THAT(doubts_about(m, config, true), IsEmpty());
  config = {};
  config.objective.updates_per_rollout = 2;
  EXPECT_THAT(doubts_about(m, config, true), IsEmpty());
}

}  // namespace
}  // namespace biqa
