// SPDX-License-Identifier: Apache-2.0
// Advantages of tokens against formulas that this file computes by itself.
#include "training/credit.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "learner/objective.h"

namespace biqa {
namespace {

/// Rewards in the order prediction, consistency, reasoning, format.
constexpr std::size_t kRewards = 4;
const std::map<std::string, std::array<bool, kRewards>> kEarned{{"caption", {false, true, true, true}},
                                                                {"reasoning", {false, false, true, true}},
                                                                {"rating", {true, false, false, true}},
                                                                {"second stage", {false, true, false, false}},
                                                                {"whole", {true, true, true, true}}};
constexpr std::size_t kMembers = 3;

struct Moments {
  double mean = 0, deviation = 0;
  explicit Moments(const std::vector<double>& values) {
    for (const double v : values) mean += v / static_cast<double>(values.size());
    for (const double v : values) deviation += (v - mean) * (v - mean);
    deviation = std::sqrt(deviation / static_cast<double>(values.size() - 1));
  }
};

class CreditTest : public ::testing::Test {
 protected:
  CreditTest() : tokenizer_(Tokenizer::load(BIQA_SOURCE_DIR "/assets/tiny/model")) {
    EXPECT_EQ(rewards().size(), kRewards);
    end_ = {tokenizer_.id_of("<|im_end|>").value()};
    config_.rollout.group_size = kMembers;
    config_.objective.credit = CreditAssignment::parts;
    config_.rewards.weights = {1, 0.5, 2, 0.25};
    const std::vector<std::string> texts{
        "<caption>a red car</caption><reasoning>sharp, so good</reasoning><rating>3.25</rating>",
        " <caption>noise</caption>\n<reasoning>blurred</reasoning>\n<rating>1.50</rating>",
        "<caption>no rating</caption><reasoning>it ends here",
        "<caption>x</caption><reasoning>y</reasoning><rating>5</rating>\n",
        "<caption>é</caption><reasoning>the colours</reasoning><rating>4</rating>",
        "<caption>two</caption><reasoning>lines\n</reasoning><rating>2.00</rating>"};
    const std::vector<std::vector<double>> columns{{0.9, 0.1, 0.3, 0.5}, {0.2, 0.8, 0.25, 0.5},
                                                   {0, 0, 0.1, 0},       {0.4, 0.6, 0.5, 0.5},
                                                   {0.4, 0.1, 0.2, 0.5}, {0.4, 0.7, 0.9, 0.5}};
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (i % kMembers == 0) {
        groups_.emplace_back();
        groups_.back().step = 1;
      }
      Trajectory& t = groups_.back().members.emplace_back();
      t.text = texts[i];
      t.completion_ids = tokenizer_.encode(texts[i]);
      t.completion_ids.push_back(end_[0]);
      t.rewards = columns[i];
    }
  }
  const Trajectory& member(std::size_t i) const { return groups_[i / kMembers].members[i % kMembers]; }
  std::size_t count() const { return groups_.size() * kMembers; }
  double assign() { return assign_advantages(groups_, config_, tokenizer_, end_); }

  /// The part of a token: the text before it and its first byte are in that part.
  std::string part_of(const Trajectory& t, std::size_t token) const {
    if (t.text.find("</rating>") == std::string::npos) return "whole";
    std::size_t before = 0;
    for (std::size_t i = 0; i < token; ++i)
      before += i < t.completion_ids.size() - 1 ? tokenizer_.bytes_of(t.completion_ids[i]).size() : 0;
    const auto behind = [&](const std::string& tag) { return t.text.find(tag) + tag.size(); };
    return before < behind("</caption>")     ? "caption"
           : before < behind("</reasoning>") ? "reasoning"
                                             : "rating";
  }
  double weight(std::size_t f) const { return config_.rewards.weights[f].at(1); }
  double total(std::size_t i, const std::string& part) const {
    double sum = 0;
    for (std::size_t f = 0; f < kRewards; ++f)
      sum += kEarned.at(part)[f] ? weight(f) * member(i).rewards[f] : 0;
    return sum;
  }
  Moments group_moments(std::size_t i, const std::function<double(std::size_t)>& value) const {
    std::vector<double> values;
    for (std::size_t m = 0; m < kMembers; ++m) values.push_back(value(i / kMembers * kMembers + m));
    return Moments(values);
  }
  double summed_first(std::size_t i, const std::string& part) const {
    const Moments group = group_moments(i, [&](std::size_t j) { return total(j, part); });
    return (total(i, part) - group.mean) / (group.deviation + 1e-4);
  }
  double normalised_first(std::size_t i, const std::string& part) const {
    const auto sum = [&](std::size_t j) {
      double s = 0;
      for (std::size_t f = 0; f < kRewards; ++f) {
        if (!kEarned.at(part)[f]) continue;
        const Moments group = group_moments(j, [&](std::size_t k) { return member(k).rewards[f]; });
        s += weight(f) * (member(j).rewards[f] - group.mean) / (group.deviation + 1e-4);
      }
      return s;
    };
    std::vector<double> all;
    for (std::size_t j = 0; j < count(); ++j) all.push_back(sum(j));
    const Moments batch(all);
    return (sum(i) - batch.mean) / (batch.deviation + 1e-4);
  }
  void expect_advantages(const std::function<double(std::size_t, const std::string&)>& reference) {
    std::map<std::string, int> seen;
    for (std::size_t i = 0; i < count(); ++i) {
      const Trajectory& t = member(i);
      ASSERT_EQ(t.token_advantages.size(), t.completion_ids.size());
      EXPECT_NEAR(t.advantage, reference(i, "whole"), 1e-9);
      EXPECT_NEAR(t.stage2_advantage, reference(i, "second stage"), 1e-9);
      for (std::size_t token = 0; token < t.token_advantages.size(); ++token) {
        const std::string part = part_of(t, token);
        ++seen[part];
        EXPECT_NEAR(t.token_advantages[token], reference(i, part), 1e-6) << t.text << " token " << token;
      }
    }
    EXPECT_EQ(seen.size(), 4U) << "caption, reasoning, rating, whole";
  }

  Tokenizer tokenizer_;
  std::vector<std::int64_t> end_;
  Config config_;
  std::vector<Group> groups_;
};

TEST_F(CreditTest, PartsHaveTheAdvantageOfTheRewardsThatTheyEarn) {
  assign();
  expect_advantages([&](std::size_t i, const std::string& part) { return summed_first(i, part); });
}

TEST_F(CreditTest, NormalisingFirstIsDoneForEachPartToo) {
  config_.objective.advantage.kind = AdvantageKind::normalise_then_sum;
  assign();
  expect_advantages([&](std::size_t i, const std::string& part) { return normalised_first(i, part); });
}

TEST_F(CreditTest, WholeCreditIsTheAdvantageOfTheTrajectory) {
  config_.objective.credit = CreditAssignment::whole;
  assign();
  for (std::size_t i = 0; i < count(); ++i) {
    EXPECT_TRUE(member(i).token_advantages.empty());
    EXPECT_NEAR(member(i).advantage, summed_first(i, "whole"), 1e-9);
    EXPECT_EQ(member(i).stage2_advantage, member(i).advantage);
  }
  EXPECT_TRUE(advantages_of(groups_, config_).parts[0].empty());
}

TEST_F(CreditTest, ARewardReachesNoPartThatDoesNotEarnIt) {
  assign();
  const std::vector<Group> before = groups_;
  for (Group& group : groups_) {
    for (Trajectory& t : group.members) t.rewards[0] = 1 - t.rewards[0] * t.rewards[0];  // prediction
  }
  assign();
  bool moved = false;
  for (std::size_t i = 0; i < count(); ++i) {
    const Trajectory& t = member(i);
    for (std::size_t token = 0; token < t.token_advantages.size(); ++token) {
      const float old = before[i / kMembers].members[i % kMembers].token_advantages[token];
      const std::string part = part_of(t, token);
      if (part == "caption" || part == "reasoning") {
        EXPECT_EQ(t.token_advantages[token], old) << t.text << " token " << token;
      } else {
        moved = moved || t.token_advantages[token] != old;
      }
    }
  }
  EXPECT_TRUE(moved);
}

TEST_F(CreditTest, WeightsAreThoseOfTheStep) {
  config_.rewards.weights[0] = WeightSchedule({{0, 0}, {4, 4}});
  assign();  // step 1
  expect_advantages([&](std::size_t i, const std::string& part) { return summed_first(i, part); });
  for (Group& group : groups_) group.step = 3;
  const double first = member(0).advantage;
  assign();
  EXPECT_NE(member(0).advantage, first);
}

// The rewards of a group may cancel in the sum, but not in the parts.
TEST_F(CreditTest, AGroupWithoutVarianceHasNoneInAnyPart) {
  config_.rewards.weights = {1, 1, 1, 1};
  const std::vector<std::vector<double>> cancel{
      {0.75, 0.25, 0.5, 0.5}, {0.25, 0.75, 0.5, 0.5}, {0.5, 0.5, 0.5, 0.5}};
  for (std::size_t m = 0; m < kMembers; ++m) {
    groups_[0].members[m].rewards = cancel[m];
    groups_[1].members[m].rewards = {0.4, 0.4, 0.4, 0.5};
  }
  EXPECT_EQ(assign(), 0.5);
  EXPECT_EQ(advantages_of(groups_, config_).zero_variance, (std::vector<bool>{false, true}));
  for (const Trajectory& t : groups_[0].members) EXPECT_EQ(t.advantage, 0);
  EXPECT_GT(member(0).token_advantages.back(), 0.9) << "its rating is the best";
  EXPECT_LT(member(0).token_advantages.front(), -0.9) << "its caption is the worst";
  config_.objective.credit = CreditAssignment::whole;
  EXPECT_EQ(assign(), 1);
  // The reward of the second stage alone varies: a part, if it is trained. The caption earns it as well.
  config_.objective.credit = CreditAssignment::parts;
  for (std::size_t m = 0; m < kMembers; ++m)
    groups_[1].members[m].rewards = {0.4, 0.1 * static_cast<double>(m), 0.4, 0.5};
  EXPECT_EQ(assign(), 0);
}

// On-policy the policy gradient is linear in the advantage, so each reward can be followed to its tokens alone.
TEST_F(CreditTest, TheGradientIsTheSumOverTheRewardsWithTheirMasks) {
  assign();
  for (const Loss loss : {Loss::grpo, Loss::dr_grpo, Loss::dapo, Loss::bnpo, Loss::cispo, Loss::sapo}) {
    ObjectiveConfig objective;
    objective.loss = loss;
    objective.clip_high = row_of(loss).clip_high;
    objective.beta = 0;
    for (std::size_t i = 0; i < count(); ++i) {
      const Trajectory& t = member(i);
      const std::size_t tokens = t.completion_ids.size();
      std::vector<float> logp(tokens), mask(tokens, 1.0F);
      for (std::size_t k = 0; k < tokens; ++k) logp[k] = -0.1F * static_cast<float>(k + 1);
      const auto gradient = [&](const std::vector<float>& advantages) {
        return sequence_loss<float>(objective, {logp, logp, {}, mask, 0, 0.125, advantages}).gradient;
      };
      std::vector<double> sum(tokens, 0.0);
      for (std::size_t f = 0; f < kRewards; ++f) {
        std::vector<float> alone(tokens, 0.0F);
        for (std::size_t k = 0; k < tokens; ++k) {
          const std::string part = part_of(t, k);
          if (!kEarned.at(part)[f]) continue;
          const Moments own = group_moments(i, [&](std::size_t j) { return member(j).rewards[f]; });
          const Moments all = group_moments(i, [&](std::size_t j) { return total(j, part); });
          alone[k] = static_cast<float>(weight(f) * (t.rewards[f] - own.mean) / (all.deviation + 1e-4));
        }
        const std::vector<float> part_of_sum = gradient(alone);
        for (std::size_t k = 0; k < tokens; ++k) sum[k] += part_of_sum[k];
      }
      const std::vector<float> whole = gradient(t.token_advantages);
      for (std::size_t k = 0; k < tokens; ++k) EXPECT_NEAR(whole[k], sum[k], 1e-6) << row_of(loss).name;
    }
  }
}

}  // namespace
}  // namespace biqa
