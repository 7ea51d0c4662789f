// SPDX-License-Identifier: Apache-2.0
// Log-probabilities of groups and the adapter's gradient through the whole network.
#include "model/training_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/compare.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

using testing::random_adapter;
using testing::random_ids;
using testing::random_values;
using testing::TinyModel;

double norm_of(std::span<const float> values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}
double distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  return std::sqrt(sum);
}

/// Two groups: a prompt with a picture that ends inside a page, with completions of 7, 1 and 18 tokens, and a
/// text prompt of exactly one page with completions of 3 and 2.
struct Data {
  explicit Data(const QwenVl& model)
      : prompts{testing::image_prompt(model, 2, 3, 13, 1, features),
                testing::text_prompt(model.config(), 16, 2)} {
    for (const std::int64_t length : {7, 1, 18})
      completions[0].push_back(random_ids(length, 10 + static_cast<std::uint64_t>(length)));
    for (const std::int64_t length : {3, 2})
      completions[1].push_back(random_ids(length, 10 + static_cast<std::uint64_t>(length)));
    for (std::size_t g = 0; g < 2; ++g) {
      PromptGroup group{&prompts[g], {}, 1000 + g};
      auto& weights = factors.emplace_back();
      for (const auto& ids : completions[g]) {
        group.completions.emplace_back(ids);
        weights.push_back(random_values(ids.size(), 1, 50 + ids.size()));
      }
      groups.push_back(std::move(group));
    }
  }
  Tensor features;
  std::array<PromptInput, 2> prompts;
  std::array<std::vector<std::vector<std::int64_t>>, 2> completions;
  std::vector<PromptGroup> groups;
  TokenValues factors;  ///< weights of the tokens' log-probabilities in a scalar
};

View flat(std::vector<float>& values) {
  return {values.data(), 1, static_cast<std::int64_t>(values.size())};
}

struct Result {
  TokenValues logp, entropy;
  std::vector<float> gradient;
  double loss = 0;  ///< Σ factor · logp
};

class Pass : public ::testing::Test {
 protected:
  explicit Pass(bool tied = true) : files_(tied) {}
  void load(DType type, int threads = 1) {
    model_ = testing::load(files_, type, threads);
    data_ = std::make_unique<Data>(*model_);
  }
  /// Adds to a gradient in host memory through one in the backend's.
  void backward(TrainingPass& pass, const TokenValues& factors, std::vector<float>& gradient) const {
    DeviceMemory& memory = model_->ops().memory();
    Tensor there = copied_to(memory, flat(gradient), "gradient");
    pass.backward(factors, there.view());
    memory.copy(there.view(), flat(gradient));
    memory.wait();
  }
  Result run(std::span<const PromptGroup> groups, const TokenValues& factors, const Lora* lora,
             PassOptions options) const {
    const auto adapter = lora != nullptr ? pack_adapter(*model_, *lora) : nullptr;
    TrainingPass pass(*model_, adapter.get(), options);
    Result result;
    pass.forward(groups, result.logp, result.entropy);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      for (std::size_t m = 0; m < factors[g].size(); ++m) {
        for (std::size_t t = 0; t < factors[g][m].size(); ++t) {
          result.loss += static_cast<double>(factors[g][m][t]) * static_cast<double>(result.logp[g][m][t]);
        }
      }
    }
    if (options.gradient) {
      result.gradient.assign(lora->layout->size(), 0.0F);
      backward(pass, factors, result.gradient);
    }
    return result;
  }
  Result run(const Lora* lora, const PassOptions& options) const {
    return run(data_->groups, data_->factors, lora, options);
  }
  Lora adapter() const { return random_adapter(model_->config(), 5); }

  void check_gradient(const PassOptions& options) const;

  TinyModel files_;
  std::unique_ptr<QwenVl> model_;
  std::unique_ptr<Data> data_;
};

class PassTypes : public Pass, public ::testing::WithParamInterface<DType> {
 protected:
  void SetUp() override { load(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Types, PassTypes, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& type) { return name_of(type.param); });

PassOptions with_gradient(float temperature = 1.0F) {
  PassOptions options;
  options.temperature = temperature;
  options.gradient = true;
  return options;
}

TEST_P(PassTypes, AGroupIsItsSequencesOneByOne) {
  const Lora lora = adapter();
  const Result together = run(&lora, with_gradient(0.9F));
  std::vector<double> sum(lora.values.size(), 0.0);
  std::vector<double> sizes(lora.values.size(), 0.0);
  for (std::size_t g = 0; g < 2; ++g) {
    for (std::size_t m = 0; m < data_->groups[g].completions.size(); ++m) {
      const PromptGroup single{&data_->prompts[g], {data_->groups[g].completions[m]}, 0};
      const Result alone = run(std::span(&single, 1), {{data_->factors[g][m]}}, &lora, with_gradient(0.9F));
      EXPECT_EQ(alone.logp[0][0], together.logp[g][m]) << "group " << g << " member " << m;
      EXPECT_EQ(alone.entropy[0][0], together.entropy[g][m]) << "group " << g << " member " << m;
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(alone.gradient[i]);
    }
  }
  // The same terms in another order. In f32 every one is off by a few roundings of its own size; with bf16 the gradients
  // that feed products are rounded to 2^-8, and a prompt's row is rounded once for the sum instead of once per member.
  std::vector<float> expected(sum.begin(), sum.end());
  const double unit = testing::roundoff(GetParam());
  const double bound = GetParam() == DType::f32 ? 300 * unit : 8 * unit;
  EXPECT_LT(distance(together.gradient, expected), bound * norm_of(expected));
  EXPECT_GT(norm_of(expected), 0.1);
}

TEST_P(PassTypes, RecomputedLayersGiveTheSameBits) {
  const Lora lora = adapter();
  for (const double rate : {0.0, 0.25}) {
    PassOptions options = with_gradient();
    options.dropout = {rate, 4};
    const Result kept = run(&lora, options);
    options.recompute_layers = true;
    const Result again = run(&lora, options);
    EXPECT_EQ(again.logp, kept.logp);
    EXPECT_EQ(again.gradient, kept.gradient);
  }
}

TEST_P(PassTypes, ThreadsChangeNothing) {
  const Lora lora = adapter();
  PassOptions options = with_gradient();
  options.dropout = {0.25, 4};
  const Result one = run(&lora, options);
  load(GetParam(), 2);
  const Result two = run(&lora, options);
  EXPECT_EQ(two.logp, one.logp);
  EXPECT_EQ(two.gradient, one.gradient);
}

TEST_P(PassTypes, TheReferenceIsTheNetworkWithoutAdapter) {
  const auto layout = std::make_shared<LoraLayout>(model_->config(), LoraSpec{.rank = 4, .alpha = 8});
  const Lora fresh = initial_lora(layout, 9);
  const Lora lora = adapter();
  const Result reference = run(nullptr, {});
  EXPECT_EQ(run(&fresh, {}).logp, reference.logp);
  EXPECT_NE(run(&lora, {}).logp, reference.logp);
  EXPECT_EQ(run(&lora, {}).logp, run(&lora, with_gradient()).logp) << "with and without a tape";
  const Result start = run(&fresh, with_gradient());
  for (const LoraModule& module : layout->modules()) {
    const auto a =
        std::span(start.gradient).subspan(module.a_offset, static_cast<std::size_t>(module.rank * module.in));
    const auto b = std::span(start.gradient)
                       .subspan(module.b_offset, static_cast<std::size_t>(module.rank * module.out));
    EXPECT_EQ(norm_of(a), 0) << "with B zero nothing flows into A";
    EXPECT_GT(norm_of(b), 0) << peft_key(module, 'B');
  }
}

TEST_P(PassTypes, APassCanBeUsedAgain) {
  const Lora lora = adapter();
  const auto packed = pack_adapter(*model_, lora);
  const Result expected = run(&lora, with_gradient());
  TrainingPass pass(*model_, packed.get(), with_gradient());
  for (int repeat = 0; repeat < 2; ++repeat) {
    TokenValues logp;
    TokenValues entropy;
    std::vector<float> gradient(lora.values.size(), 0.0F);
    pass.forward(data_->groups, logp, entropy);
    backward(pass, data_->factors, gradient);
    EXPECT_EQ(logp, expected.logp);
    EXPECT_EQ(gradient, expected.gradient);
    pass.forward(std::span(data_->groups).first(1), logp, entropy);  // abandoned without a backward
  }
}

TEST_P(PassTypes, CountsItsRows) {
  EXPECT_EQ(TrainingPass::rows_of(data_->groups[0]), 21 + 6 + 0 + 17);
  EXPECT_EQ(TrainingPass::rows_of(data_->groups[1]), 16 + 2 + 1);
}

/// The loss as a function of the adapter, against the gradient, along one random direction per A and per B: a
/// wrong element changes the derivative along almost every direction. Central differences of fourth order,
///   D = (8 (f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h,
/// are off by the rounding of f, times 1.5/h, and by a term of h⁴, which is far below the one of h² by which
/// the second-order differences with h and 2h differ (they differ by three times their error at h). f is a
/// sum of 31 log-probabilities with weights below 1; each is a difference of logits below 32 that come
/// through three layers of f32 with independent roundings: about 2^-24 · 32 each, √31 times that for the sum.
void Pass::check_gradient(const PassOptions& options) const {
  const Lora lora = adapter();
  const Result result = run(&lora, options);
  PassOptions plain = options;
  plain.gradient = false;
  const double noise = 0x1.0p-24 * 32 * std::sqrt(31.0);
  const double norm = norm_of(result.gradient);
  const auto check = [&](const LoraModule& module, char part) {
    const std::size_t offset = part == 'A' ? module.a_offset : module.b_offset;
    const auto count = static_cast<std::size_t>(module.rank * (part == 'A' ? module.in : module.out));
    std::vector<float> direction = random_values(count, 1, offset + 3);
    const double length = norm_of(direction);
    double slope = 0;
    for (std::size_t i = 0; i < count; ++i)
      slope += static_cast<double>(result.gradient[offset + i]) * direction[i] / length;
    const auto at = [&](double step) {
      Lora moved = lora;
      for (std::size_t i = 0; i < count; ++i) {
        moved.values[offset + i] =
            static_cast<float>(moved.values[offset + i] + step * direction[i] / length);
      }
      return run(&moved, plain).loss;
    };
    const double h = 0.02;
    const double near = (at(h) - at(-h)) / (2 * h);
    const double far = (at(2 * h) - at(-2 * h)) / (4 * h);
    const double difference = (4 * near - far) / 3;
    const double bound = 4 * (1.5 * noise / h) + std::abs(near - far) / 10;
    EXPECT_NEAR(slope, difference, bound) << peft_key(module, part);
    EXPECT_LT(bound, 0.05 * norm) << "too coarse to tell anything: " << peft_key(module, part);
  };
  for (const LoraModule& module : lora.layout->modules()) {
    check(module, 'A');
    check(module, 'B');
  }
  EXPECT_GT(norm, 1);
}

class PassGradient : public Pass, public ::testing::WithParamInterface<bool> {
 protected:
  PassGradient() : Pass(GetParam()) { load(DType::f32); }
};
INSTANTIATE_TEST_SUITE_P(Heads, PassGradient, ::testing::Bool());

TEST_P(PassGradient, IsTheDerivative) {
  check_gradient(with_gradient(0.8F));
}

TEST_P(PassGradient, IsTheDerivativeWithDropout) {
  PassOptions options = with_gradient();
  options.dropout = {0.2, 11};
  check_gradient(options);
  const Lora lora = adapter();
  const Result masked = run(&lora, options);
  EXPECT_NE(masked.logp, run(&lora, with_gradient()).logp);
  options.dropout.key = 12;
  EXPECT_NE(masked.logp, run(&lora, options).logp) << "another key, another mask";
}

// With bf16 every input of a product is rounded to 2^-8 relative. Roundings are independent, so through the about 30
// products of forward and backward they add up to some √30 · 2^-9 (their mean size) of the gradient's norm; four times that
// is allowed. Weights are rounded as well, which changes the network itself by as much.
TEST_F(Pass, Bf16IsNearF32) {
  load(DType::f32);
  const Lora lora = adapter();
  const Result exact = run(&lora, with_gradient());
  load(DType::bf16);
  const Result rounded = run(&lora, with_gradient());
  const double bound = 4 * std::sqrt(60.0) * 0x1.0p-9;
  EXPECT_LT(distance(rounded.gradient, exact.gradient), bound * norm_of(exact.gradient));
  EXPECT_GT(distance(rounded.gradient, exact.gradient), 0x1.0p-10 * norm_of(exact.gradient))
      << "was anything rounded?";
}

TEST_F(Pass, GradientsAddUpInTheTarget) {
  load(DType::f32);
  const Lora lora = adapter();
  const auto packed = pack_adapter(*model_, lora);
  const Result once = run(&lora, with_gradient());
  std::vector<float> gradient(lora.values.size(), 0.0F);
  for (int repeat = 0; repeat < 2; ++repeat) {
    TrainingPass pass(*model_, packed.get(), with_gradient());
    TokenValues logp;
    TokenValues entropy;
    pass.forward(data_->groups, logp, entropy);
    backward(pass, data_->factors, gradient);
  }
  std::vector<float> twice = once.gradient;
  for (float& value : twice) value *= 2;
  EXPECT_LT(distance(gradient, twice), 1e-6 * norm_of(twice));
}

TEST_F(Pass, ABackwardWithoutATapeIsAMistake) {
  load(DType::f32);
  const Lora lora = adapter();
  const auto packed = pack_adapter(*model_, lora);
  TrainingPass pass(*model_, packed.get(), {});
  TokenValues logp;
  TokenValues entropy;
  pass.forward(data_->groups, logp, entropy);
  std::vector<float> gradient(lora.values.size(), 0.0F);
  EXPECT_DEATH(pass.backward(data_->factors, flat(gradient)), "without a forward that kept its tape");
}

}  // namespace
}  // namespace biqa
