// SPDX-License-Identifier: Apache-2.0
// The kernels behind the logits, from the sources that nvcc compiles, in the emulator.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/random.h"
#include "cuda_emulation/emulator.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/head.h"
#include "support/compare.h"
#include "support/cuda_arrays.h"
#include "support/cuda_runs.h"
#include "tensor/arena.h"

namespace biqa {
namespace {

using testing::DeviceArray;
using testing::DeviceOutput;
using testing::ExpectedMatrix;
using testing::on_device;
using testing::random_tensor;
using testing::relative_bound;
using testing::roundoff;
using testing::same_bits;

constexpr double kUnit = 0x1.0p-24;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Scores {
  Tensor scores, d_logits;
};
Scores log_prob(ConstView logits, const std::vector<std::int64_t>& targets, float temperature, DType type,
                bool with_derivative = true) {
  const cuda::Stream stream;
  const cuda::DeviceTensor device_logits = on_device(logits, stream);
  const DeviceArray<std::int64_t> device_targets(targets, stream);
  DeviceOutput scores(DType::f32, logits.rows(), 2, stream);
  DeviceOutput d_logits(type, logits.rows(), logits.columns(), stream);
  cuda::log_prob(device_logits.view(), device_targets.span(), temperature, scores.view(),
                 with_derivative ? d_logits.view() : View{}, stream);
  return {scores.on_host(), d_logits.on_host()};
}

std::vector<cuda::DeviceSampledToken> sample(ConstView logits, const std::vector<SampleRequest>& requests,
                                             const std::vector<std::int64_t>& suppressed = {}) {
  const cuda::Stream stream;
  std::vector<cuda::DeviceSampleRequest> device_form;
  device_form.reserve(requests.size());
  for (const SampleRequest& r : requests)
    device_form.push_back({r.uniform, r.temperature, r.top_p, r.top_k, r.greedy ? 1 : 0});
  const cuda::DeviceTensor device_logits = on_device(logits, stream);
  const DeviceArray<cuda::DeviceSampleRequest> device_requests(device_form, stream);
  const DeviceArray<std::int64_t> device_suppressed(suppressed, stream);
  DeviceOutput weights(DType::f32, logits.rows(), logits.columns(), stream);
  const DeviceArray<cuda::DeviceSampledToken> tokens(
      std::vector<cuda::DeviceSampledToken>(static_cast<std::size_t>(logits.rows())), stream);
  cuda::sample(device_logits.view(), device_requests.span(), device_suppressed.span(), weights.view(),
               tokens.data(), stream);
  weights.on_host();
  return tokens.on_host(stream);
}
cuda::DeviceSampledToken sample_one(const std::vector<float>& logits, const SampleRequest& request,
                                    const std::vector<std::int64_t>& suppressed = {}) {
  const ConstView row(logits.data(), 1, static_cast<std::int64_t>(logits.size()));
  return sample(row, {request}, suppressed)[0];
}
bool same_token(const cuda::DeviceSampledToken& a, const cuda::DeviceSampledToken& b) {
  return a.id == b.id && a.logp == b.logp && a.entropy == b.entropy && a.finite == b.finite;
}
SampleRequest greedy() {
  SampleRequest request;
  request.greedy = true;
  return request;
}

/// The CPU's sampler on given logits: a head with hidden size 1 and h = 1.
class CpuSampler {
 public:
  explicit CpuSampler(ConstView logits) : ops_(DType::f32, 1), one_(DType::f32, 1, 1, "test") {
    Tensor column(DType::f32, logits.columns(), 1, "test");
    std::copy_n(logits.row<float>(0), logits.columns(), column.row<float>(0));
    head_ = ops_.pack(column.view(), {}, false);
    one_.row<float>(0)[0] = 1;
  }
  std::int64_t sample(const SampleRequest& request, const std::vector<std::int64_t>& suppressed) {
    SampledToken token;
    ops_.sample(one_.view(), *head_, std::span(&request, 1), suppressed, std::span(&token, 1), arena_);
    return token.id;
  }
  /// What it samples for draws and top-p within 1e-6 of the given ones: a weight may differ in its last bit.
  std::vector<std::int64_t> close(const SampleRequest& request, const std::vector<std::int64_t>& suppressed) {
    constexpr double kClose = 1e-6;
    std::vector<std::int64_t> ids;
    for (const double draw : {0.0, -kClose, kClose}) {
      for (const double p : {0.0, -kClose, kClose}) {
        SampleRequest other = request;
        other.uniform = std::clamp(request.uniform + draw, 0x1.0p-53, 1 - 0x1.0p-53);
        if (request.top_p < 1)
          other.top_p = std::clamp(static_cast<float>(request.top_p + p), 0.0F, 0x1.fffffep-1F);
        ids.push_back(sample(other, suppressed));
      }
    }
    return ids;
  }

 private:
  CpuOps ops_;
  Arena arena_{"test"};
  Tensor one_;
  std::unique_ptr<FrozenLinear> head_;
};

struct Case {
  std::int64_t rows, vocabulary;
  float temperature;
  double size;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.rows << "x" << c.vocabulary << " below " << c.size << ", temperature " << c.temperature;
}
class CudaHead : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, CudaHead,
                         ::testing::Values(Case{1, 1, 1.0F, 3}, Case{3, 2, 0.7F, 4}, Case{4, 31, 1.0F, 20},
                                           Case{2, 33, 1.7F, 5}, Case{5, 97, 0.9F, 8},
                                           Case{2, 1025, 1.0F, 12}, Case{2, 2500, 0.6F, 30},
                                           Case{3, 40, 0.5F, 300}));

std::vector<std::int64_t> targets_of(const Case& c) {
  std::vector<std::int64_t> targets;
  for (std::int64_t t = 0; t < c.rows; ++t) targets.push_back((t * 31 + 5) % c.vocabulary);
  targets.back() = c.vocabulary - 1;
  return targets;
}

// z = logit / temperature less the maximum is off by the roundings of 1/temperature, of two products and of the difference,
// each at most kUnit · size / temperature. That is a relative error of exp(z).
TEST_P(CudaHead, AgreesWithTheFormula) {
  const Case& c = GetParam();
  const Tensor logits = random_tensor(DType::f32, c.rows, c.vocabulary, c.size, 1);
  const std::vector<std::int64_t> targets = targets_of(c);
  const double temperature = c.temperature;
  const double z_error = 6 * kUnit * c.size / temperature;
  const double sum_error = z_error + relative_bound(c.vocabulary) + 4 * kUnit;
  for (const DType type : {DType::f32, DType::bf16}) {
    // Subnormal numbers are multiples of one number: half of it is lost in exp(z), and half of it in the result.
    const double smallest = type == DType::bf16 ? 0x1.0p-133 : 0x1.0p-147;
    ExpectedMatrix scores(c.rows, 2);
    ExpectedMatrix d_logits(c.rows, c.vocabulary);
    for (std::int64_t t = 0; t < c.rows; ++t) {
      std::vector<double> z;
      for (std::int64_t i = 0; i < c.vocabulary; ++i)
        z.push_back(static_cast<double>(logits.row<float>(t)[i]) / temperature);
      const double highest = *std::max_element(z.begin(), z.end());
      double sum = 0;
      for (double& value : z) sum += std::exp(value -= highest);
      const auto target = targets[static_cast<std::size_t>(t)];
      const double logp = z[static_cast<std::size_t>(target)] - std::log(sum);
      double mean = 0;
      for (const double value : z) mean += std::exp(value) / sum * value;
      scores.set(t, 0, logp, z_error + sum_error + 4 * kUnit * (std::abs(logp) + std::log(sum)));
      // Σ |z| p is −mean, and an error of z goes into p and into z.
      scores.set(
          t, 1, std::log(sum) - mean,
          sum_error + z_error + 2 * (sum_error + 4 * kUnit) * -mean + 4 * kUnit * (std::log(sum) - mean));
      for (std::int64_t i = 0; i < c.vocabulary; ++i) {
        const double p = std::exp(z[static_cast<std::size_t>(i)]) / sum;
        const double d = ((i == target ? 1 : 0) - p) / temperature;
        d_logits.set(
            t, i, d,
            ((z_error + sum_error + 6 * kUnit) * p + 4 * kUnit * (i == target ? 1 : 0)) / temperature +
                roundoff(type) * std::abs(d) + smallest);
      }
    }
    const Scores result = log_prob(logits.view(), targets, c.temperature, type);
    EXPECT_TRUE(scores.agrees_with(result.scores.view()));
    EXPECT_TRUE(d_logits.agrees_with(result.d_logits.view()));
    const Scores without = log_prob(logits.view(), targets, c.temperature, type, false);
    EXPECT_TRUE(same_bits(result.scores.view(), without.scores.view()));
  }
}

// Actor and learner: the token's log-probability and entropy are those that log_prob computes, in any batch.
TEST_P(CudaHead, SamplingAndScoringGiveTheSameBits) {
  const Case& c = GetParam();
  const Tensor logits = random_tensor(DType::f32, c.rows, c.vocabulary, c.size, 2);
  std::vector<SampleRequest> requests;
  for (std::int64_t t = 0; t < c.rows; ++t)
    requests.push_back({c.temperature, t % 2 == 0 ? 3 : 0, t % 3 == 0 ? 0.8F : 1.0F, false,
                        0.1 + 0.2 * static_cast<double>(t)});
  const auto tokens = sample(logits.view(), requests);
  std::vector<std::int64_t> ids(tokens.size());
  std::transform(tokens.begin(), tokens.end(), ids.begin(), [](const auto& token) { return token.id; });
  const Scores all = log_prob(logits.view(), ids, c.temperature, DType::f32);
  for (std::int64_t t = 0; t < c.rows; ++t) {
    const auto at = static_cast<std::size_t>(t);
    EXPECT_EQ(tokens[at].finite, 1);
    EXPECT_EQ(tokens[at].logp, all.scores.row<float>(t)[0]) << t;
    EXPECT_EQ(tokens[at].entropy, all.scores.row<float>(t)[1]) << t;
    const ConstView row = logits.view().row_range(t, 1);
    const Scores alone = log_prob(row, {ids[at]}, c.temperature, DType::f32);
    EXPECT_TRUE(same_bits(alone.scores.view(), all.scores.view().row_range(t, 1))) << t;
    EXPECT_TRUE(same_bits(alone.d_logits.view(), all.d_logits.view().row_range(t, 1))) << t;
    const auto token = sample(row, {requests[at]})[0];
    EXPECT_TRUE(same_token(token, tokens[at])) << t;
  }
}

TEST_P(CudaHead, SameBitsInEveryOrderOfThreads) {
  const Case& c = GetParam();
  const Tensor logits = random_tensor(DType::f32, c.rows, c.vocabulary, c.size, 3);
  std::vector<SampleRequest> requests(static_cast<std::size_t>(c.rows),
                                      SampleRequest{c.temperature, 20, 0.7F, false, 0.6});
  requests.back().greedy = true;
  const Scores first = log_prob(logits.view(), targets_of(c), c.temperature, DType::bf16);
  const auto tokens = sample(logits.view(), requests, {0});
  for (const emulation::Order order : {emulation::Order::backward, emulation::Order::shuffled}) {
    emulation::set_order(order);
    const Scores again = log_prob(logits.view(), targets_of(c), c.temperature, DType::bf16);
    EXPECT_TRUE(same_bits(first.scores.view(), again.scores.view()));
    EXPECT_TRUE(same_bits(first.d_logits.view(), again.d_logits.view()));
    const auto tokens_again = sample(logits.view(), requests, {0});
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), tokens_again.begin(), same_token));
  }
  emulation::set_order(emulation::Order::forward);
}

std::vector<SampleRequest> many_requests(std::size_t count, std::int64_t vocabulary, std::uint64_t seed) {
  std::vector<SampleRequest> requests;
  const RandomStream draws{seed};
  for (std::uint64_t i = 0; i < count; ++i) {
    SampleRequest r;
    r.uniform = draws.uniform(8 * i);
    r.temperature = 0.4F + 1.2F * static_cast<float>(draws.uniform(8 * i + 1));
    if (i % 3 != 0) r.top_p = 0.02F + 0.97F * static_cast<float>(draws.uniform(8 * i + 2));
    if (i % 4 < 2)
      r.top_k = 1 + static_cast<std::int32_t>(draws.uniform(8 * i + 3) * static_cast<double>(vocabulary));
    r.greedy = i % 11 == 10;
    requests.push_back(r);
  }
  return requests;
}

/// The CUDA sampler's tokens are the CPU's, unless draw or top-p lies within 1e-6 of where the CPU's token changes.
void expect_tokens_of_the_cpu(const Tensor& row, const std::vector<SampleRequest>& requests,
                              const std::vector<std::int64_t>& suppressed) {
  Tensor rows(DType::f32, static_cast<std::int64_t>(requests.size()), row.columns(), "test");
  for (std::int64_t t = 0; t < rows.rows(); ++t)
    std::copy_n(row.row<float>(0), row.columns(), rows.row<float>(t));
  const auto tokens = sample(rows.view(), requests, suppressed);
  CpuSampler cpu(row.view());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const SampleRequest& r = requests[i];
    if (tokens[i].id == cpu.sample(r, suppressed)) continue;
    const auto close = cpu.close(r, suppressed);
    EXPECT_NE(std::find(close.begin(), close.end(), tokens[i].id), close.end())
        << tokens[i].id << " instead of " << close[0] << ": draw " << r.uniform << ", temperature "
        << r.temperature << ", top k " << r.top_k << ", top p " << r.top_p << (r.greedy ? ", greedy" : "");
  }
}

TEST(CudaSampling, TakesTheTokensOfTheCpu) {
  for (const std::int64_t vocabulary : {1, 2, 7, 96, 255, 256, 257, 600, 1300}) {
    for (const double size : {0.5, 6.0, 40.0}) {
      const Tensor row =
          random_tensor(DType::f32, 1, vocabulary, size, static_cast<std::uint64_t>(vocabulary));
      const std::size_t count = vocabulary < 256 ? 40 : 12;
      std::vector<std::int64_t> suppressed;
      if (vocabulary > 2) suppressed = {0, vocabulary / 2};
      expect_tokens_of_the_cpu(row, many_requests(count, vocabulary, 5), suppressed);
    }
  }
}

// Many equal weights around the k-th and around the mass of top-p: which of them stay shows in the draws.
TEST(CudaSampling, TiesFollowTheCpu) {
  for (const std::int64_t vocabulary : {8, 40, 300}) {
    for (const float step : {100.0F, 2.0F, 0.5F}) {  // 100: all are equal
      Tensor row = random_tensor(DType::f32, 1, vocabulary, 3, 9);
      for (float& z : row.span<float>()) z = step * std::round(z / step);
      std::vector<SampleRequest> requests = many_requests(vocabulary < 100 ? 60 : 15, vocabulary, 6);
      for (SampleRequest& r : requests) r.temperature = 1;
      expect_tokens_of_the_cpu(row, requests, {});
    }
  }
}

// Weights of one are exact, so that every boundary of top-p can be asked for: of eight, ids from 4 on stay at p = 1/2.
TEST(CudaSampling, TopPOfEqualWeightsDropsTheFirst) {
  const std::vector<float> logits(8, 1.5F);
  struct Boundary {
    float p;
    std::int64_t first;
  };
  for (const auto& [p, first] :
       {Boundary{0.5F, 4}, Boundary{0.50001F, 3}, Boundary{0.49999F, 4}, Boundary{0.125F, 7},
        Boundary{1e-6F, 7}, Boundary{0.0F, 7}, Boundary{0.999F, 0}, Boundary{0.875F, 1}}) {
    SampleRequest request{1.0F, 0, p, false, 0x1.0p-53};
    EXPECT_EQ(sample_one(logits, request).id, first) << p;
    request.uniform = 1 - 0x1.0p-53;
    EXPECT_EQ(sample_one(logits, request).id, 7) << p;
  }
}

// For every id of some weight: top-p just large enough to keep it, and just too small, with a draw in the middle of its part.
TEST(CudaSampling, TopPIsRightToTwoMillionths) {
  constexpr std::int64_t kVocabulary = 150;
  constexpr double kClose = 2e-6;
  const Tensor row = random_tensor(DType::f32, 1, kVocabulary, 3, 10);
  std::vector<double> weights;
  for (const float z : row.span<const float>()) weights.push_back(std::exp(static_cast<double>(z)));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<SampleRequest> requests;
  for (const double& weight : weights) {
    double cumulative = 0;
    for (const double w : weights) cumulative += w <= weight ? w : 0;
    for (const double close : {kClose, -kClose}) {
      double before = 0;
      double kept = 0;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        if (&weights[i] == &weight) before = kept + weight / 2;
        kept += weights[i] >= weight ? weights[i] : 0;
      }
      requests.push_back({1.0F, 0, static_cast<float>(1 - cumulative / total + close), false, before / kept});
    }
  }
  Tensor rows(DType::f32, 2 * kVocabulary, kVocabulary, "test");
  for (std::int64_t t = 0; t < rows.rows(); ++t)
    std::copy_n(row.row<float>(0), kVocabulary, rows.row<float>(t));
  const auto tokens = sample(rows.view(), requests);
  const auto largest = std::max_element(weights.begin(), weights.end()) - weights.begin();
  for (std::int64_t id = 0; id < kVocabulary; ++id) {
    const auto at = static_cast<std::size_t>(2 * id);
    if (weights[static_cast<std::size_t>(id)] < 3 * kClose * total) continue;
    EXPECT_EQ(tokens[at].id, id);
    if (id != largest) {
      EXPECT_NE(tokens[at + 1].id, id);
    }
  }
}

// What may be sampled has hardly any weight beside a suppressed id: sums of masses must not lose it.
TEST(CudaSampling, ASuppressedIdMayHaveAllTheWeight) {
  for (const float top : {20.0F, 60.0F, 85.0F}) {
    Tensor row = random_tensor(DType::f32, 1, 50, 2, 4);
    row.row<float>(0)[17] = top;
    std::vector<SampleRequest> requests = many_requests(40, 50, 8);
    for (SampleRequest& r : requests) r.temperature = 1;
    expect_tokens_of_the_cpu(row, requests, {17});
  }
}

// As CUDA's exponential gives them, and not the CPU's: weights on both sides of the smallest normal number, about 2 : 3.
TEST(CudaSampling, SubnormalWeightsCountInFull) {
  for (const auto& [p, id] : {std::pair{0.7F, 0}, std::pair{0.59F, 1}}) {
    const SampleRequest request{1.0F, 0, p, false, 0x1.0p-53};
    EXPECT_EQ(sample_one({-87.6F, -87.2F, 0.0F}, request, {2}).id, id) << p;
  }
}

TEST(CudaSampling, GreedyScoresAtTemperatureOne) {
  const Tensor logits = random_tensor(DType::f32, 1, 40, 3, 1);
  SampleRequest request = greedy();
  request.temperature = 0.5F;
  const auto token = sample(logits.view(), {request})[0];
  const Scores scores = log_prob(logits.view(), {token.id}, 1.0F, DType::f32);
  EXPECT_EQ(token.logp, scores.scores.row<float>(0)[0]);
  EXPECT_EQ(token.entropy, scores.scores.row<float>(0)[1]);
}

TEST(CudaSampling, GreedyTakesTheFirstOfTheLargest) {
  EXPECT_EQ(sample_one({1.0F, 3.0F, 3.0F, 2.0F}, greedy()).id, 1);
  EXPECT_EQ(sample_one({-5.0F, -7.0F}, greedy()).id, 0);
  EXPECT_EQ(sample_one({-1.0F, -0.0F, 0.0F}, greedy()).id, 1);
  EXPECT_EQ(sample_one({1.0F, 3.0F, 3.0F, 2.0F}, greedy(), {1}).id, 2);
  EXPECT_EQ(sample_one({-kInfinity, -3e38F}, greedy()).id, 1);
  std::vector<float> many(700, -2.0F);
  many[650] = many[300] = 4.0F;
  EXPECT_EQ(sample_one(many, greedy()).id, 300);
  EXPECT_EQ(sample_one(many, greedy(), {300}).id, 650);
}

TEST(CudaSampling, TheEndsOfTheDrawStayInside) {
  for (const std::size_t only : {std::size_t{0}, std::size_t{200}, std::size_t{300}, std::size_t{599}}) {
    std::vector<float> many(600, -200.0F);  // weights that underflow to nothing around one that does not
    many[only] = 0;
    for (const double uniform : {0x1.0p-53, 0.5, 1 - 0x1.0p-53}) {
      for (const float top_p : {1.0F, 0.5F}) {
        const SampleRequest request{1.0F, 0, top_p, false, uniform};
        EXPECT_EQ(sample_one(many, request).id, static_cast<std::int64_t>(only)) << uniform;
      }
    }
  }
}

// Beside a weight of 1, five of 3/4 · 2^-52 count as 2^-52 each in a sum. So the draw passes the end, which is no weight at all.
TEST(CudaSampling, ADrawBeyondTheEndTakesTheLastToken) {
  std::vector<float> many(7 * 256, -200.0F);
  many[3] = 0;
  for (std::size_t block = 1; block <= 5; ++block)
    many[block * 256 + 5] = static_cast<float>(std::log(0.75 * 0x1.0p-52));
  const SampleRequest request{1.0F, 0, 1.0F, false, 1 - 0x1.0p-53};
  EXPECT_EQ(sample_one(many, request).id, 5 * 256 + 5);
}

TEST(CudaSampling, NoTokenMayBeSampled) {
  const std::vector<std::int64_t> all{0, 1, 2};
  for (const SampleRequest& request : {greedy(), SampleRequest{}, SampleRequest{1.0F, 2, 0.5F}}) {
    const auto token = sample_one({1.0F, 2.0F, 0.5F}, request, all);
    EXPECT_EQ(token.id, -1);
    EXPECT_EQ(token.finite, 1);
  }
}

// A row's logits are its own, so the others of the batch are as they would be.
TEST(CudaSampling, LogitsThatAreNotFiniteGiveNoToken) {
  constexpr std::int64_t kVocabulary = 70;
  const Tensor clean = random_tensor(DType::f32, 3, kVocabulary, 4, 1);
  for (const SampleRequest& request : {greedy(), SampleRequest{}, SampleRequest{0.7F, 5, 0.9F}}) {
    const auto expected = sample(clean.view(), {request, request, request});
    const Scores scores = log_prob(clean.view(), {1, 2, 3}, 1.0F, DType::f32);
    for (const float value : {kNaN, kInfinity}) {
      for (const std::int64_t at : {0, 1, 33, 64, 69}) {
        Tensor logits = clean.clone();
        logits.row<float>(1)[at] = value;
        const auto tokens = sample(logits.view(), {request, request, request});
        EXPECT_EQ(tokens[1].finite, 0) << value << " at " << at;
        EXPECT_EQ(tokens[1].id, -1) << value << " at " << at;
        const Scores result = log_prob(logits.view(), {1, 2, 3}, 1.0F, DType::f32);
        EXPECT_TRUE(std::isnan(result.scores.row<float>(1)[0]));
        EXPECT_TRUE(std::isnan(result.scores.row<float>(1)[1]));
        for (std::int64_t i = 0; i < kVocabulary; ++i)
          EXPECT_TRUE(std::isnan(result.d_logits.row<float>(1)[i]));
        for (const std::int64_t other : {0, 2}) {
          const auto row = static_cast<std::size_t>(other);
          EXPECT_TRUE(same_token(tokens[row], expected[row]));
          EXPECT_TRUE(same_bits(result.d_logits.view().row_range(other, 1),
                                scores.d_logits.view().row_range(other, 1)));
        }
      }
    }
    const auto nothing = sample_one(std::vector<float>(40, -kInfinity), request);
    EXPECT_EQ(nothing.finite, 0);
    // One id of no weight at all is as good as suppressed.
    EXPECT_EQ(sample_one({-kInfinity, 0.5F, -kInfinity}, request).id, 1);
  }
}

TEST(CudaSampling, NoRowsIsNoWork) {
  const Tensor none(DType::f32, 0, 8, "test");
  EXPECT_TRUE(sample(none.view(), {}).empty());
  EXPECT_EQ(log_prob(none.view(), {}, 1.0F, DType::f32).scores.rows(), 0);
}

}  // namespace
}  // namespace biqa
