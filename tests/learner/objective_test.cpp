// SPDX-License-Identifier: Apache-2.0
// Against autograd (fixtures of tests/scripts/make_number_fixtures.py) and TRL's GRPOTrainer (goldens).
#include "learner/objective.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/shared_folder.h"

namespace biqa {
namespace {

using Table = std::vector<std::vector<double>>;

Loss loss_named(const std::string& name) {
  for (const LossRow& row : losses()) {
    if (name == row.name) return row.value;
  }
  ADD_FAILURE() << "no loss " << name;
  return Loss::grpo;
}
Kl kl_named(const std::string& name) {
  return name == "k1" ? Kl::k1 : name == "k2" ? Kl::k2 : name == "k3" ? Kl::k3 : Kl::k3_times_ratio;
}
std::optional<double> number(const nlohmann::json& value) {
  return value.is_null() ? std::nullopt : std::optional(value.get<double>());
}

struct Batch {
  ObjectiveConfig config;
  Table logp, old, reference, mask, token_loss, gradient;
  std::vector<double> advantages;
  double total = 0, longest_allowed = 0;
  double tokens() const {
    double sum = 0;
    for (const auto& row : mask) {
      for (const double m : row) sum += m;
    }
    return sum;
  }
};

template <typename T>
std::vector<SequenceLoss<T>> run(const Batch& batch, const BatchTotals& totals) {
  std::vector<SequenceLoss<T>> results;
  for (std::size_t i = 0; i < batch.logp.size(); ++i) {
    const auto row = [&](const Table& table) { return std::vector<T>(table[i].begin(), table[i].end()); };
    const auto logp = row(batch.logp);
    const auto old = row(batch.old);
    const auto reference = row(batch.reference);
    const auto mask = row(batch.mask);
    double tokens = 0;
    for (const T m : mask) tokens += m;
    results.push_back(sequence_loss<T>(batch.config, {logp, old, reference, mask, batch.advantages[i],
                                                      token_weight(batch.config.loss, tokens, totals)}));
  }
  return results;
}

template <typename T>
void expect_agreement(const Batch& batch, const BatchTotals& totals, double tolerance) {
  const auto results = run<T>(batch, totals);
  double total = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    total += results[i].loss;
    for (std::size_t t = 0; t < batch.logp[i].size(); ++t) {
      EXPECT_NEAR(double{results[i].token_loss[t]}, batch.token_loss[i][t], tolerance) << i << ", " << t;
      EXPECT_NEAR(double{results[i].gradient[t]}, batch.gradient[i][t], tolerance) << i << ", " << t;
    }
  }
  EXPECT_NEAR(total, batch.total, tolerance);
}

std::vector<nlohmann::json> own_cases() {
  std::ifstream file(BIQA_SOURCE_DIR "/tests/fixtures/numbers/objective.json");
  return nlohmann::json::parse(file).at("cases").get<std::vector<nlohmann::json>>();
}

Batch own_batch(const nlohmann::json& row) {
  Batch batch;
  batch.config = {loss_named(row.at("loss").get<std::string>()),
                  row.at("low").get<double>(),
                  row.at("high").get<double>(),
                  kl_named(row.at("kl").get<std::string>()),
                  row.at("beta").get<double>(),
                  number(row.at("cap")),
                  number(row.at("off_policy"))};
  batch.logp = row.at("logp").get<Table>();
  batch.old = row.at("old").get<Table>();
  batch.reference = row.at("ref").get<Table>();
  batch.mask = row.at("mask").get<Table>();
  batch.token_loss = row.at("token_loss").get<Table>();
  batch.gradient = row.at("gradient").get<Table>();
  batch.advantages = row.at("advantages").get<std::vector<double>>();
  batch.total = row.at("total").get<double>();
  batch.longest_allowed = row.at("longest_allowed").get<double>();
  return batch;
}

BatchTotals totals_of(const Batch& batch) {
  return {static_cast<double>(batch.logp.size()), batch.tokens(), batch.longest_allowed};
}

TEST(Objective, AgreesWithAutograd) {
  const auto rows = own_cases();
  ASSERT_EQ(rows.size(), 14U);
  bool some_masked = false;
  for (const auto& row : rows) {
    SCOPED_TRACE(
        fmt::format("{}, KL {}", row.at("loss").get<std::string>(), row.at("kl").get<std::string>()));
    const Batch batch = own_batch(row);
    expect_agreement<double>(batch, totals_of(batch), 1e-12);
    expect_agreement<float>(batch, totals_of(batch), 2e-6);
    const auto results = run<double>(batch, totals_of(batch));
    for (std::size_t i = 0; i < results.size(); ++i) {
      EXPECT_NEAR(results[i].kl, row.at("kl_sum").at(i).get<double>(), 1e-6) << "Python summed in float";
      if (batch.config.loss != Loss::sft) {
        EXPECT_NEAR(results[i].ratio_max_deviation, row.at("deviation").at(i).get<double>(), 1e-12);
      }
      some_masked = some_masked || results[i].masked_off_policy;
    }
  }
  EXPECT_TRUE(some_masked) << "the fixture has no sequence for the off-policy mask";
}

TEST(Objective, GradientsAgreeWithDifferences) {
  // Autograd holds the factor of cispo constant, so that one is not the derivative of its value.
  for (const auto& row : own_cases()) {
    Batch batch = own_batch(row);
    if (batch.config.loss == Loss::cispo || row.at("on_policy").get<bool>()) continue;
    SCOPED_TRACE(row.at("loss").get<std::string>());
    const auto loss = [&] {
      double sum = 0;
      for (const auto& result : run<double>(batch, totals_of(batch))) sum += result.loss;
      return sum;
    };
    const auto results = run<double>(batch, totals_of(batch));
    for (std::size_t i = 0; i < batch.logp.size(); ++i) {
      for (std::size_t t = 0; t < batch.logp[i].size(); ++t) {
        const double at = batch.logp[i][t];
        batch.logp[i][t] = at + 1e-6;
        const double above = loss();
        batch.logp[i][t] = at - 1e-6;
        const double below = loss();
        batch.logp[i][t] = at;
        EXPECT_NEAR(results[i].gradient[t], (above - below) / 2e-6, 1e-8) << i << ", " << t;
      }
    }
  }
}

TEST(Objective, AgreesWithTheGoldens) {
  BIQA_REQUIRE_SHARED(shared);
  std::ifstream file(shared / "golden/numbers/grpo.json");
  const nlohmann::json rows = nlohmann::json::parse(file).at("losses");
  ASSERT_EQ(rows.size(), 22U);
  for (const auto& row : rows) {
    SCOPED_TRACE(row.at("name").get<std::string>());
    Batch batch;
    batch.config.loss = loss_named(row.at("name").get<std::string>());
    batch.config.clip_low = row.at("epsilon_low").get<double>();
    batch.config.clip_high = row.at("epsilon_high").get<double>();
    batch.config.beta = row.at("beta").get<double>();
    batch.config.kl = row.at("kl_times_ratio").get<bool>() ? Kl::k3_times_ratio : Kl::k3;
    batch.config.ratio_cap = number(row.at("delta"));
    batch.logp = row.at("logp").get<Table>();
    batch.old = row.at("old_logp").get<Table>();
    batch.reference = row.at("ref_logp").get<Table>();
    batch.mask = row.at("mask").get<Table>();
    batch.token_loss = row.at("per_token_loss").get<Table>();
    batch.gradient = row.at("gradient").get<Table>();
    batch.advantages = row.at("advantages").get<std::vector<double>>();
    batch.total = row.at("loss").get<double>();
    // TRL divides the loss of a micro-batch by the accumulation steps; here that is a larger batch.
    const auto accumulation = row.at("accumulation").get<double>();
    const bool whole_batch = batch.config.loss == Loss::dapo || batch.config.loss == Loss::cispo;
    const double tokens = whole_batch ? row.at("items_in_generation_batch").get<double>() * accumulation /
                                            row.at("steps_per_generation").get<double>()
                                      : batch.tokens() * accumulation;
    const BatchTotals totals{static_cast<double>(batch.logp.size()) * accumulation, tokens,
                             row.at("max_completion_length").get<double>()};
    // TRL takes the temperature 1.05 of sapo as a float.
    expect_agreement<double>(batch, totals, batch.config.loss == Loss::sapo ? 2e-7 : 1e-12);

    double kl = 0;
    double low = 0;
    double high = 0;
    for (const auto& result : run<double>(batch, totals)) {
      // TRL's masked mean counts tokens, but sequences where there is one ratio per sequence.
      const double share = batch.config.loss == Loss::gspo ? 1 / (4 * result.tokens) : 1 / batch.tokens();
      low += result.clipped_low * share;
      high += result.clipped_high * share;
      kl += result.kl / batch.tokens();
    }
    const auto& metrics = row.at("metrics");
    if (metrics.contains("kl")) {
      EXPECT_NEAR(kl, metrics.at("kl").get<double>(), 1e-12);
    }
    if (metrics.contains("clip_ratio/low_mean")) {
      EXPECT_NEAR(low, metrics.at("clip_ratio/low_mean").get<double>(), 1e-6);
      EXPECT_NEAR(high, metrics.at("clip_ratio/high_mean").get<double>(), 1e-6);
    }
    if (metrics.contains("cispo_clip_ratio")) {
      EXPECT_NEAR(high, metrics.at("cispo_clip_ratio").get<double>(), 1e-6);
    }
  }
}

TEST(Objective, OnPolicyIsThePlainPolicyGradient) {
  const std::vector<float> logp{-0.5F, -1.25F, -2.0F};
  const std::vector<float> mask(3, 1.0F);
  ObjectiveConfig config;
  for (const Loss loss : {Loss::grpo, Loss::dapo, Loss::dr_grpo, Loss::bnpo, Loss::gspo, Loss::cispo}) {
    config.loss = loss;
    if (loss == Loss::cispo) config.clip_high = 5;
    const auto result = sequence_loss<float>(config, {logp, logp, logp, mask, 0.75, 0.125});
    for (const float g : result.gradient) EXPECT_EQ(g, -0.75F * 0.125F) << "loss " << static_cast<int>(loss);
    EXPECT_EQ(result.ratio_max_deviation, 0);
    EXPECT_EQ(result.logp_max_gap, 0);
    EXPECT_EQ(result.kl, 0);
    EXPECT_EQ(result.tokens, 3);
    EXPECT_EQ(result.ratio, 3);
  }
}

TEST(Losses, RowsStandInTheOrderOfTheirValues) {
  for (std::size_t i = 0; i < losses().size(); ++i) {
    EXPECT_EQ(static_cast<std::size_t>(losses()[i].value), i) << losses()[i].name;
    EXPECT_EQ(&row_of(losses()[i].value), &losses()[i]);
  }
}

// Where no bound is touched, the derivative of every row is that of its value, also with advantages of tokens.
TEST(Losses, DerivativesAgreeWithFiniteDifferences) {
  const std::vector<double> old{-1.0, -2.0}, reference{-1.1, -1.7}, mask{1, 1};
  for (const LossRow& row : losses()) {
    if (row.value == Loss::cispo) continue;  // its factor is held constant on purpose
    for (const std::vector<double>& advantages :
         {std::vector<double>{0.5, 0.5}, {-0.5, -0.5}, {0.5, -0.75}, {0, 0.3}}) {
      ObjectiveConfig config;
      config.loss = row.value;
      config.clip_high = row.clip_high;
      config.beta = 0.1;
      std::vector<double> logp{-1.02, -1.95};
      const auto loss = [&] {
        return sequence_loss<double>(config, {logp, old, reference, mask, 0, 0.25, advantages});
      };
      const std::vector<double> gradient = loss().gradient;
      for (std::size_t t = 0; t < logp.size(); ++t) {
        constexpr double kStep = 1e-5;
        const double at = logp[t];
        logp[t] = at + kStep;
        const double above = loss().loss;
        logp[t] = at - kStep;
        const double below = loss().loss;
        logp[t] = at;
        EXPECT_NEAR(gradient[t], (above - below) / (2 * kStep), 1e-8) << row.name << " token " << t;
      }
    }
  }
}

// One advantage for all tokens is the same as one for each; and each token's own is in its term.
TEST(Objective, TokensMayHaveAdvantagesOfTheirOwn) {
  const std::vector<double> old{-1.0, -2.0, -0.4}, reference{-1.1, -1.7, -0.5}, mask{1, 1, 1};
  const std::vector<double> logp{-1.02, -1.95, -0.1};  // the last ratio is beyond the upper bound
  for (const LossRow& row : losses()) {
    if (row.imitates) continue;
    ObjectiveConfig config;
    config.loss = row.value;
    config.clip_high = row.clip_high;
    config.beta = 0.1;
    const auto loss = [&](double advantage, const std::vector<double>& own) {
      return sequence_loss<double>(config, {logp, old, reference, mask, advantage, 0.25, own});
    };
    const std::vector<double> equal(3, 0.5), mixed{0.5, -0.5, 0.75};
    EXPECT_EQ(loss(9, equal).token_loss, loss(0.5, {}).token_loss) << row.name;
    EXPECT_EQ(loss(9, equal).gradient, loss(0.5, {}).gradient) << row.name;
    const auto result = loss(9, mixed);
    for (std::size_t t = 0; t < 3; ++t) {
      EXPECT_EQ(result.token_loss[t], loss(mixed[t], {}).token_loss[t]) << row.name;
      if (!row.one_ratio_per_sequence) {
        EXPECT_EQ(result.gradient[t], loss(mixed[t], {}).gradient[t]) << row.name;
      }
    }
    if (row.value == Loss::grpo) {
      EXPECT_EQ(result.clipped_high, 1);
      EXPECT_EQ(loss(0, {0.5, 0.5, -0.5}).clipped_high, 0);
    }
  }
}

TEST(Objective, TheOffPolicyMaskTakesTheTokensWithANegativeAdvantage) {
  const std::vector<double> old{-1.0, -2.0}, logp{-2.0, -3.0}, mask{1, 1};  // mean(o - l) is 1
  ObjectiveConfig config;
  config.beta = 0;
  config.off_policy_mask = 0.9;
  const auto loss = [&](const std::vector<double>& own) {
    return sequence_loss<double>(config, {logp, old, {}, mask, 0, 1, own});
  };
  EXPECT_EQ(loss({1, -1}).gradient[1], 0);
  EXPECT_NE(loss({1, -1}).gradient[0], 0);
  EXPECT_TRUE(loss({1, -1}).masked_off_policy);
  EXPECT_FALSE(loss({1, 1}).masked_off_policy);
  config.off_policy_mask = 1.1;
  EXPECT_FALSE(loss({1, -1}).masked_off_policy);
}

TEST(Losses, CispoIsTheGradientOfItsFactorTimesTheLogProbability) {
  ObjectiveConfig config;
  config.loss = Loss::cispo;
  config.clip_high = 5;
  const LossTerm term = row_of(Loss::cispo).term(config, -2, 7, 0.5);
  EXPECT_EQ(term.value, 5);
  EXPECT_EQ(term.by_logp, -2.5);
  EXPECT_EQ(term.by_ratio, 0);
  EXPECT_EQ(row_of(Loss::cispo).clip(config).high, 5);
}

TEST(Objective, ZeroAdvantageAndNoKlGiveNothing) {
  const std::vector<float> logp{-0.5F, -1.25F};
  const std::vector<float> old{-2.5F, -0.25F};
  const std::vector<float> mask(2, 1.0F);
  ObjectiveConfig config;
  config.beta = 0;
  const auto result = sequence_loss<float>(config, {logp, old, {}, mask, 0, 1});
  EXPECT_EQ(result.loss, 0);
  for (const float g : result.gradient) EXPECT_EQ(g, 0);
}

TEST(Objective, MaskedTokensMayHoldAnything) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> logp{-0.5F, nan, -inf};
  const std::vector<float> old{-0.5F, -1.0F, inf};
  const std::vector<float> reference{-0.25F, nan, nan};
  const std::vector<float> mask{1, 0, 0};
  ObjectiveConfig config;
  for (const LossRow& row : losses()) {
    config.loss = row.value;
    const auto result = sequence_loss<float>(config, {logp, old, reference, mask, 1, 1});
    EXPECT_TRUE(std::isfinite(result.loss));
    EXPECT_TRUE(std::isfinite(result.gradient[0]));
    for (const std::size_t t : {1U, 2U}) {
      EXPECT_EQ(result.gradient[t], 0);
      EXPECT_EQ(result.token_loss[t], 0);
    }
  }
}

TEST(Objective, NanReachesTheLoss) {  // so that the learner's check for finite values sees it
  const std::vector<double> logp{std::nan(""), -1};
  const std::vector<double> old{-1, -1};
  const std::vector<double> mask{1, 1};
  const auto result = sequence_loss<double>({}, {logp, old, old, mask, 1, 1});
  EXPECT_TRUE(std::isnan(result.loss));
}

TEST(Objective, EmptySequence) {
  const auto result = sequence_loss<float>({}, {{}, {}, {}, {}, 1, token_weight(Loss::grpo, 0, {4, 0, 16})});
  EXPECT_EQ(result.loss, 0);
  EXPECT_EQ(result.tokens, 0);
  EXPECT_TRUE(result.gradient.empty());
}

TEST(Objective, SftNeedsNoOtherPolicy) {
  const std::vector<float> logp{-0.5F, -1.5F};
  const std::vector<float> mask{1, 1};
  ObjectiveConfig config;
  config.loss = Loss::sft;
  const auto result =
      sequence_loss<float>(config, {logp, {}, {}, mask, 0, token_weight(Loss::sft, 2, {1, 4, 0})});
  EXPECT_EQ(result.loss, 0.5) << "2 nats over the 4 tokens of the batch";
  EXPECT_EQ(result.gradient, (std::vector<float>{-0.25F, -0.25F}));
}

TEST(ObjectiveDeathTest, SpansMustFit) {
  const std::vector<float> two{-1, -1};
  const std::vector<float> one{1};
  EXPECT_DEATH(sequence_loss<float>({}, {two, two, two, one, 1, 1}), "Check failed");
  EXPECT_DEATH(sequence_loss<float>({}, {two, one, two, two, 1, 1}), "Check failed");
  EXPECT_DEATH(sequence_loss<float>({}, {two, two, {}, two, 1, 1}), "Check failed")
      << "the KL term needs a reference";
  EXPECT_DEATH(sequence_loss<float>({}, {two, two, two, two, 1, 1, one}), "Check failed");
}

}  // namespace
}  // namespace biqa
