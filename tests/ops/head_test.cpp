// SPDX-License-Identifier: Apache-2.0
// Log-probabilities, their gradient, and sampling.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "support/compare.h"
#include "support/operations.h"
#include "support/oracle.h"

namespace biqa {
namespace {

using oracle::Complex;
using oracle::matrix_of;
using oracle::Real;
using testing::ExpectedMatrix;
using testing::HeadCase;
using testing::random_tensor;
using testing::relative_bound;
using testing::roundoff;
using testing::same_bits;

constexpr double kUnit = 0x1.0p-24;

std::vector<std::int64_t> targets_of(std::int64_t rows, std::int64_t vocabulary) {
  std::vector<std::int64_t> targets;
  for (std::int64_t t = 0; t < rows; ++t) targets.push_back((t * 31 + 5) % vocabulary);
  targets.back() = vocabulary - 1;
  return targets;
}

class Head : public ::testing::TestWithParam<HeadCase> {};
class HeadBatch : public ::testing::TestWithParam<HeadCase> {};
class HeadNotFinite : public ::testing::TestWithParam<HeadCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, Head, ::testing::ValuesIn(testing::head_cases()));
INSTANTIATE_TEST_SUITE_P(Cases, HeadBatch, ::testing::ValuesIn(testing::head_batch_cases()));
INSTANTIATE_TEST_SUITE_P(Cases, HeadNotFinite, ::testing::ValuesIn(testing::head_not_finite_cases()));

TEST_P(Head, AgreesWithTheFormula) {
  const HeadCase& c = GetParam();
  const Tensor h = random_tensor(c.type, c.rows, c.hidden, 2, c.seed);
  const Tensor weight = random_tensor(c.type, c.vocabulary, c.hidden, 1, c.seed + 1);
  const auto targets = targets_of(c.rows, c.vocabulary);
  const auto ops = testing::make_operations(c.type, 2);
  const auto head = ops->pack(weight.view(), {}, true);
  std::vector<float> logp(targets.size());
  std::vector<float> entropy(targets.size());
  Tensor d_hidden(DType::f32, c.rows, c.hidden, "test");
  ops->log_prob(h.view(), *head, targets, c.temperature, logp, entropy, d_hidden.view());

  const Real w = matrix_of(weight.view());
  const Real hs = matrix_of(h.view());
  // A logit is a sum of `hidden` products below 2; its error goes one to one into logp, and as a relative
  // error into the probabilities.
  const double temperature = c.temperature;
  const double logit_error =
      (relative_bound(c.hidden) + 4 * kUnit) * 2 * static_cast<double>(c.hidden) / temperature;
  const double softmax_error = 2 * logit_error + 2 * relative_bound(c.vocabulary) + 12 * kUnit;
  for (std::int64_t t = 0; t < c.rows; ++t) {
    const auto at = static_cast<std::size_t>(t);
    const auto expected = oracle::log_prob(hs, t, w, targets[at], temperature);
    EXPECT_NEAR(logp[at], expected.logp, softmax_error + 4 * kUnit * std::abs(expected.logp)) << "row " << t;
    // Entropy: log of the sum less the mean of z, each z below the spread of the logits.
    const double spread = 4 * static_cast<double>(c.hidden) / temperature;
    EXPECT_NEAR(entropy[at], expected.entropy, softmax_error * (1 + spread)) << "row " << t;
  }

  // ∂logp/∂h = (W[target] − Σ p W) / temperature; dlogits are rounded to the compute type.
  ExpectedMatrix expected(c.rows, c.hidden);
  for (std::int64_t t = 0; t < c.rows; ++t) {
    Real row(1, c.hidden);
    for (std::int64_t i = 0; i < c.hidden; ++i) row(0, i) = hs(t, i);
    const auto target = targets[static_cast<std::size_t>(t)];
    const Real g = oracle::gradient(
        row, [&](const Complex& z) { return oracle::log_prob(z, 0, w, target, temperature).logp; });
    for (std::int64_t i = 0; i < c.hidden; ++i) {
      // Σ |1[target] − p| |W| is at most 2; 1 − p is off by an absolute error of p.
      const double bound =
          (softmax_error + roundoff(c.type) + relative_bound(c.vocabulary) + 4 * kUnit) * 2 / temperature;
      expected.set(t, i, g(0, i), bound);
    }
  }
  EXPECT_TRUE(expected.agrees_with(d_hidden.view()));

  std::vector<float> logp_alone(targets.size());
  std::vector<float> entropy_alone(targets.size());
  ops->log_prob(h.view(), *head, targets, c.temperature, logp_alone, entropy_alone, View{});
  EXPECT_EQ(logp, logp_alone) << "with and without the gradient";
}

TEST_P(HeadBatch, ARowDoesNotDependOnItsBatchOrTheThreads) {
  const HeadCase& c = GetParam();
  const auto all = static_cast<std::size_t>(c.rows);
  const Tensor h = random_tensor(c.type, c.rows, c.hidden, 2, c.seed);
  const Tensor weight = random_tensor(c.type, c.vocabulary, c.hidden, 1, c.seed + 1);
  const auto targets = targets_of(c.rows, c.vocabulary);
  std::vector<float> alone(all);
  std::vector<float> alone_entropy(all);
  Tensor alone_d(DType::f32, c.rows, c.hidden, "test");
  std::vector<SampledToken> alone_tokens(all);
  std::vector<SampleRequest> requests;
  const RandomStream draws{c.seed + 2};
  for (std::uint64_t i = 0; i < all; ++i) {
    requests.push_back(
        {c.temperature, i % 3 == 0 ? 7 : 0, i % 2 == 0 ? 0.8F : 1.0F, i % 5 == 0, draws.uniform(i)});
  }
  for (const int threads : {1, 2}) {
    const auto ops = testing::make_operations(c.type, threads);
    const auto head = ops->pack(weight.view(), {}, true);
    for (std::size_t r = 0; threads == 1 && r < all; ++r) {
      const auto row = static_cast<std::int64_t>(r);
      ops->log_prob(h.view().row_range(row, 1), *head, std::span(targets).subspan(r, 1), c.temperature,
                    std::span(alone).subspan(r, 1), std::span(alone_entropy).subspan(r, 1),
                    alone_d.view().row_range(row, 1));
      ops->sample(h.view().row_range(row, 1), *head, std::span(requests).subspan(r, 1), {},
                  std::span(alone_tokens).subspan(r, 1));
    }
    for (const std::int64_t rows : c.batches) {
      const auto count = static_cast<std::size_t>(rows);
      const std::int64_t first = c.rows - rows;
      const auto at = static_cast<std::size_t>(first);
      std::vector<float> logp(count);
      std::vector<float> entropy(count);
      Tensor d(DType::f32, rows, c.hidden, "test");
      ops->log_prob(h.view().row_range(first, rows), *head, std::span(targets).subspan(at), c.temperature,
                    logp, entropy, d.view());
      EXPECT_TRUE(std::equal(logp.begin(), logp.end(), alone.begin() + first)) << rows;
      EXPECT_TRUE(std::equal(entropy.begin(), entropy.end(), alone_entropy.begin() + first)) << rows;
      EXPECT_TRUE(same_bits(d.view(), alone_d.view().row_range(first, rows))) << rows;
      std::vector<SampledToken> tokens(count);
      ops->sample(h.view().row_range(first, rows), *head, std::span(requests).subspan(at), {}, tokens);
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_EQ(tokens[i].id, alone_tokens[at + i].id) << rows;
        ASSERT_EQ(tokens[i].logp, alone_tokens[at + i].logp) << rows;
      }
    }
  }
}

constexpr std::size_t kDraws = 4000;

/// A head whose logits are the given ones: hidden size 1, h = 1.
struct Logits {
  explicit Logits(const std::vector<float>& logits)
      : ops(testing::make_operations(DType::f32, 1)), ones(DType::f32, kDraws, 1, "test") {
    const ConstView weight(logits.data(), static_cast<std::int64_t>(logits.size()), 1);
    head = ops->pack(weight, {}, false);
    std::fill(ones.span<float>().begin(), ones.span<float>().end(), 1.0F);
  }
  SampledToken sample(const SampleRequest& request, std::span<const std::int64_t> suppressed = {}) {
    SampledToken token;
    ops->sample(ones.view().row_range(0, 1), *head, std::span(&request, 1), suppressed, std::span(&token, 1));
    return token;
  }
  /// How often each id comes up when the draw runs over a fine, even grid.
  std::vector<double> frequencies(const SampleRequest& request, std::size_t vocabulary,
                                  std::span<const std::int64_t> suppressed = {}) {
    std::vector<SampleRequest> requests(kDraws, request);
    for (std::size_t i = 0; i < kDraws; ++i) requests[i].uniform = (static_cast<double>(i) + 0.5) / kDraws;
    std::vector<SampledToken> tokens(kDraws);
    ops->sample(ones.view(), *head, requests, suppressed, tokens);
    std::vector<double> counts(vocabulary, 0.0);
    for (const SampledToken& token : tokens) counts[static_cast<std::size_t>(token.id)] += 1.0 / kDraws;
    return counts;
  }
  std::unique_ptr<testing::Operations> ops;
  std::unique_ptr<FrozenLinear> head;
  Tensor ones;
};

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (const float z : logits) sum += p.emplace_back(std::exp(static_cast<double>(z) / temperature));
  for (double& value : p) value /= sum;
  return p;
}
void expect_distribution(const std::vector<double>& counted, std::vector<double> weights, const char* what) {
  double sum = 0;
  for (const double w : weights) sum += w;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    // An even grid of draws misses an interval's length by one draw at either end.
    EXPECT_NEAR(counted[i], weights[i] / sum, 2.0 / kDraws + 1e-6) << what << " id " << i;
    if (weights[i] == 0) {
      EXPECT_EQ(counted[i], 0) << what << " id " << i;
    }
  }
}

const std::vector<float> kLogits{0.3F, 1.9F, -1.0F, 0.3F, 2.1F, -0.4F, 1.2F};

TEST(Sampling, FollowsTheSoftmaxAtItsTemperature) {
  Logits logits(kLogits);
  for (const float temperature : {0.5F, 1.0F, 2.0F}) {
    expect_distribution(logits.frequencies({temperature}, 7), softmax(kLogits, temperature), "temperature");
  }
}

TEST(Sampling, TopKKeepsTheLargestAndTies) {
  Logits logits(kLogits);
  const auto p = softmax(kLogits, 1);
  expect_distribution(logits.frequencies({1.0F, 2}, 7), {0, p[1], 0, 0, p[4], 0, 0}, "top 2");
  expect_distribution(logits.frequencies({1.0F, 4}, 7), {p[0], p[1], 0, p[3], p[4], 0, p[6]},
                      "top 4 with a tie");
  expect_distribution(logits.frequencies({1.0F, 50}, 7), p, "top 50");
}

TEST(Sampling, TopPKeepsTheFewestWhoseMassReachesP) {
  Logits logits(kLogits);
  const auto p = softmax(kLogits, 1);  // in order: 4, 1, 6, then 0 and 3
  expect_distribution(logits.frequencies({1.0F, 0, static_cast<float>(p[4] - 0.01)}, 7),
                      {0, 0, 0, 0, p[4], 0, 0}, "one");
  expect_distribution(logits.frequencies({1.0F, 0, static_cast<float>(p[4] + 0.01)}, 7),
                      {0, p[1], 0, 0, p[4], 0, 0}, "two");
  expect_distribution(logits.frequencies({1.0F, 0, static_cast<float>(p[4] + p[1] + 0.01)}, 7),
                      {0, p[1], 0, 0, p[4], 0, p[6]}, "three");
  expect_distribution(logits.frequencies({1.0F, 0, 1e-6F}, 7), {0, 0, 0, 0, p[4], 0, 0}, "never nothing");
  // After top-k the mass counts among what is left.
  const double left = p[4] + p[1] + p[6];
  expect_distribution(logits.frequencies({1.0F, 3, static_cast<float>((p[4] + p[1]) / left - 0.01)}, 7),
                      {0, p[1], 0, 0, p[4], 0, 0}, "top 3, then top p");
}

TEST(Sampling, SuppressedIdsNeverComeUpButCount) {
  Logits logits(kLogits);
  const std::vector<std::int64_t> suppressed{4, 0};
  auto p = softmax(kLogits, 1);
  const double full = std::log(p[1]);
  p[4] = p[0] = 0;
  expect_distribution(logits.frequencies({1.0F}, 7, suppressed), p, "suppressed");
  SampleRequest greedy;
  greedy.greedy = true;
  const SampledToken token = logits.sample(greedy, suppressed);
  EXPECT_EQ(token.id, 1);
  EXPECT_NEAR(token.logp, full, 1e-5) << "the log-probability is that of the full softmax";
}

TEST(Sampling, GreedyTakesTheFirstOfTheLargest) {
  SampleRequest greedy;
  greedy.greedy = true;
  EXPECT_EQ(Logits({1.0F, 3.0F, 3.0F, 2.0F}).sample(greedy).id, 1);
  EXPECT_EQ(Logits({-5.0F, -7.0F}).sample(greedy).id, 0);
}

TEST(Sampling, TheEndsOfTheDrawStayInside) {
  std::vector<float> many(600, -200.0F);  // weights that underflow to nothing around one that does not
  many[300] = 0;
  Logits logits(many);
  for (const double uniform : {0x1.0p-53, 0.5, 1 - 0x1.0p-53}) {
    SampleRequest request;
    request.uniform = uniform;
    EXPECT_EQ(logits.sample(request).id, 300) << uniform;
  }
}

TEST(Sampling, ReportsTheEntropyOfTheFullSoftmax) {
  Logits logits(kLogits);
  const auto p = softmax(kLogits, 0.5);
  double entropy = 0;
  for (const double value : p) entropy -= value * std::log(value);
  EXPECT_NEAR(logits.sample({0.5F, 2}).entropy, entropy, 1e-5);
}

// A row's logits are its own, so the others of the batch are as they would be.
TEST_P(HeadNotFinite, LogitsThatAreNoNumbersAreAnError) {
  const HeadCase& c = GetParam();
  const auto rows = static_cast<std::size_t>(c.rows);
  for (const int threads : {1, 2}) {
    const auto ops = testing::make_operations(c.type, threads);
    const auto head =
        ops->pack(random_tensor(c.type, c.vocabulary, c.hidden, 1, c.seed + 1).view(), {}, true);
    for (const float value :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      Tensor wide = random_tensor(DType::f32, c.rows, c.hidden, 2, c.seed);
      wide.row<float>(6)[3] = value;
      Tensor h(c.type, c.rows, c.hidden, "test");
      ops->convert(wide.view(), h.view());
      for (const bool greedy : {false, true}) {
        SampleRequest request;
        request.greedy = greedy;
        std::vector<SampledToken> tokens(rows);
        const std::vector<SampleRequest> requests(rows, request);
        EXPECT_THROW(ops->sample(h.view(), *head, requests, {}, tokens), Error) << threads;
      }
      std::vector<float> logp(rows), entropy(rows);
      Tensor d_hidden(DType::f32, c.rows, c.hidden, "test");
      ops->log_prob(h.view(), *head, targets_of(c.rows, c.vocabulary), c.temperature, logp, entropy,
                    d_hidden.view());
      for (std::size_t r = 0; r < rows; ++r) EXPECT_EQ(std::isfinite(logp[r]), r != 6) << r;
    }
  }
}

}  // namespace
}  // namespace biqa
