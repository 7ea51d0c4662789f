// SPDX-License-Identifier: Apache-2.0
// Against regular expressions and rouge_score in Python (fixtures of tests/scripts/make_number_fixtures.py).
#include "reward/rewards.h"
#include "reward/closeness.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace biqa {
namespace {

const Profile kPaper = named_profile("paper");

std::optional<double> number(const nlohmann::json& value) {
  return value.is_null() ? std::nullopt : std::optional(value.get<double>());
}

RewardConfig config_of(const nlohmann::json& row) {
  RewardConfig config;
  const auto weights = row.at("weights").get<std::vector<double>>();
  config.weights = {weights.at(0), weights.at(1), weights.at(2), weights.at(3)};
  config.tolerance = row.at("tolerance").get<double>();
  const auto rouge = row.at("rouge").get<std::string>();
  config.rouge = rouge == "precision" ? RougeKind::precision
                 : rouge == "recall"  ? RougeKind::recall
                                      : RougeKind::f1;
  const auto span = row.at("span").get<std::string>();
  config.rouge_span = span == "whole"     ? RougeSpan::whole
                      : span == "caption" ? RougeSpan::caption
                                          : RougeSpan::before_rating;
  config.prediction_shape = row.at("shape") == "binary" ? PredictionShape::binary : PredictionShape::cosine;
  return config;
}

TEST(Rewards, AgreeWithPython) {
  std::ifstream file(BIQA_SOURCE_DIR "/tests/fixtures/numbers/rewards.json");
  const nlohmann::json rows = nlohmann::json::parse(file).at("groups");
  ASSERT_EQ(rows.size(), 6U);
  for (const auto& row : rows) {
    Group group;
    group.annotation.score = row.at("score").get<double>();
    group.annotation.human_text = row.at("human").get<std::string>();
    for (const auto& member : row.at("members")) {
      Trajectory& trajectory = group.members.emplace_back();
      trajectory.text = member.at("text").get<std::string>();
      trajectory.stage2_text = member.at("stage2").get<std::string>();
    }
    ASSERT_GE(group.members.size(), 30U);
    score(group, config_of(row.at("config")), kPaper);
    for (std::size_t i = 0; i < group.members.size(); ++i) {
      const Trajectory& got = group.members[i];
      const auto& want = row.at("members").at(i);
      const auto columns = want.at("columns").get<std::vector<double>>();
      EXPECT_EQ(got.rating, number(want.at("rating"))) << got.text;
      EXPECT_EQ(got.stage2_rating, number(want.at("stage2_rating"))) << got.stage2_text;
      EXPECT_EQ(got.format_ok, want.at("format_ok").get<bool>()) << got.text;
      EXPECT_NEAR(got.rewards.at(reward_column("prediction")), columns.at(0), 1e-12) << got.text;
      EXPECT_NEAR(got.rewards.at(reward_column("consistency")), columns.at(1), 1e-12)
          << got.text << " / " << got.stage2_text;
      EXPECT_NEAR(got.rewards.at(reward_column("reasoning")), columns.at(2), 1e-12) << got.text;
      EXPECT_EQ(got.rewards.at(reward_column("format")), columns.at(3)) << got.text;
      EXPECT_NEAR(got.reward, want.at("total").get<double>(), 1e-12) << got.text;
    }
  }
}

TEST(Rewards, CosineHasTheTabulatedValues) {
  EXPECT_EQ(cosine_reward(0, 0.35), 1);
  EXPECT_NEAR(cosine_reward(0.05, 0.35), 0.950484, 5e-7);
  EXPECT_NEAR(cosine_reward(0.1, 0.35), 0.811745, 5e-7);
  EXPECT_NEAR(cosine_reward(0.175, 0.35), 0.5, 1e-12);
  EXPECT_NEAR(cosine_reward(0.25, 0.35), 0.188255, 5e-7);
  EXPECT_NEAR(cosine_reward(0.3, 0.35), 0.049516, 5e-7);
  EXPECT_EQ(cosine_reward(0.35, 0.35), 0);
  EXPECT_EQ(cosine_reward(100, 0.35), 0);
  EXPECT_EQ(cosine_reward(std::numeric_limits<double>::infinity(), 0.35), 0);
  EXPECT_EQ(cosine_reward(std::nan(""), 0.35), 0);
}

Group one_answer(const std::string& caption, const std::string& rating) {
  Group group;
  group.annotation.score = 3.4;
  group.members.resize(1);
  group.members[0].text =
      "<caption>" + caption + "</caption><reasoning>r</reasoning><rating>" + rating + "</rating>";
  group.members[0].stage2_text = "<rating>3.4</rating>";
  return group;
}

TEST(Rewards, LeaksCostTheConsistencyRewardOnlyWhereAskedFor) {
  for (const bool penalise : {false, true}) {
    RewardConfig config;
    config.penalise_leak = penalise;
    Group leaking = one_answer("worth 3.5 points", "3.5");
    score(leaking, config, kPaper);
    EXPECT_EQ(leaking.members[0].rewards.at(reward_column("consistency")), penalise ? 0 : 1);
    EXPECT_GT(leaking.members[0].rewards.at(reward_column("prediction")), 0) << "the other columns stay";
    Group tight = one_answer("sharp, 2 people", "3.5");
    score(tight, config, kPaper);
    EXPECT_EQ(tight.members[0].rewards.at(reward_column("consistency")), 1);
  }
}

/// Answers with fixed values and counts its calls.
class FixedJudge final : public TextJudge {
 public:
  FixedJudge(double similar, std::optional<double> agrees) : similar_(similar), agrees_(agrees) {}
  double similarity(std::string_view human_text, std::string_view text) override {
    asked.emplace_back(human_text, text);
    return similar_;
  }
  std::optional<double> polarity(std::string_view human_text, std::string_view text) override {
    asked.emplace_back(human_text, text);
    return agrees_;
  }
  std::vector<std::pair<std::string, std::string>> asked;

 private:
  double similar_;
  std::optional<double> agrees_;
};

double reasoning_of(ReasoningKind kind, FixedJudge& judge, const std::string& human_text = "a sharp boat") {
  RewardConfig config;
  config.reasoning_kind = kind;
  config.rouge_span = RougeSpan::caption;
  Group group = one_answer("sharp boat here too", "3.5");  // ROUGE-1 precision 1/2
  group.annotation.human_text = human_text;
  score(group, config, kPaper, &judge);
  return group.members[0].rewards.at(reward_column("reasoning"));
}

TEST(Rewards, MeaningIsAskedOfTheJudge) {
  FixedJudge judge(0.6, 0.9);
  EXPECT_EQ(reasoning_of(ReasoningKind::rouge, judge), 0.5);
  EXPECT_TRUE(judge.asked.empty());
  EXPECT_EQ(reasoning_of(ReasoningKind::semantic, judge), 0.6);
  EXPECT_EQ(judge.asked.front(), std::pair(std::string("a sharp boat"), std::string("sharp boat here too")));
  EXPECT_EQ(reasoning_of(ReasoningKind::polarity, judge), 0.9);
  EXPECT_DOUBLE_EQ(reasoning_of(ReasoningKind::mix, judge), (0.5 + 0.6 + 0.9) / 3);
}

TEST(Rewards, MeaningHasTheFloorToo) {
  FixedJudge low(0, 0), silent(0.6, std::nullopt);
  EXPECT_EQ(reasoning_of(ReasoningKind::semantic, low), 0.1);
  EXPECT_EQ(reasoning_of(ReasoningKind::polarity, low), 0.1);
  EXPECT_EQ(reasoning_of(ReasoningKind::polarity, silent), 0.1);
  EXPECT_DOUBLE_EQ(reasoning_of(ReasoningKind::mix, silent), (0.5 + 0.6) / 2);
  FixedJudge judge(0.6, 0.9);
  for (const ReasoningKind kind : {ReasoningKind::semantic, ReasoningKind::polarity, ReasoningKind::mix})
    EXPECT_EQ(reasoning_of(kind, judge, ""), 0.1) << "without a human text";
  EXPECT_TRUE(judge.asked.empty());
}

TEST(Rewards, OldValuesAreOverwritten) {
  Group group = one_answer("c", "none");
  Trajectory& member = group.members[0];
  member.caption = "stale";
  member.rating = 3.4;
  member.rewards = {9, 9, 9, 9};
  member.reward = 9;
  score(group, RewardConfig{}, kPaper);
  EXPECT_EQ(member.caption, "c");
  EXPECT_FALSE(member.rating);
  EXPECT_EQ(member.rewards.at(reward_column("prediction")), 0);
  EXPECT_EQ(member.rewards.at(reward_column("consistency")), 0);
  EXPECT_EQ(member.rewards.at(reward_column("reasoning")), 0.1);
  EXPECT_EQ(member.rewards.at(reward_column("format")), 0);
  EXPECT_DOUBLE_EQ(member.reward, 0.1);
}

TEST(Rewards, EmptyGroup) {
  Group group;
  score(group, RewardConfig{}, kPaper);
  EXPECT_TRUE(group.members.empty());
}

}  // namespace
}  // namespace biqa
