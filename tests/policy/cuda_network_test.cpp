// SPDX-License-Identifier: Apache-2.0
// The whole network, generation and learners' updates on the CUDA backend, held against the CPU backend. In the emulator or, in
// builds with CUDA, on a device.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "ops/cuda/cuda_ops.h"
#include "support/compare.h"
#include "support/network_runs.h"

namespace biqa {
namespace {

using testing::element_of;
using testing::generate;
using testing::Prompt;
using testing::random_adapter;
using testing::same_bits;
using testing::TinyModel;
using testing::train;

// Limits of docs/numerics.md between two implementations of the network in f32, as shares of the largest value.
constexpr double kLogits = 5e-5, kGradient = 2e-4;

double largest(ConstView values) {
  double most = 0;
  for (std::int64_t r = 0; r < values.rows(); ++r) {
    for (std::int64_t c = 0; c < values.columns(); ++c)
      most = std::max(most, std::abs(element_of(values, r, c)));
  }
  return most;
}
/// NaN counts as infinitely far.
double distance(ConstView a, ConstView b) {
  CHECK(a.rows() == b.rows() && a.columns() == b.columns());
  double most = 0;
  for (std::int64_t r = 0; r < a.rows(); ++r) {
    for (std::int64_t c = 0; c < a.columns(); ++c) {
      const double d = std::abs(element_of(a, r, c) - element_of(b, r, c));
      most = std::isnan(d) ? HUGE_VAL : std::max(most, d);
    }
  }
  return most;
}
ConstView row_of(const std::vector<float>& values) {
  return {values.data(), 1, static_cast<std::int64_t>(values.size())};
}

class CudaNetwork : public ::testing::TestWithParam<testing::ModelSetting> {
 protected:
  void SetUp() override {
    try {
      cuda::select_device(0);
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }
  std::unique_ptr<QwenVl> load_cpu(DType type) const {
    return QwenVl::load(files_.path(), make_ops({"cpu", type, 0}), {true, true});
  }
  std::unique_ptr<QwenVl> load_cuda(VisionAttentionBy attention = VisionAttentionBy::own) const {
    return QwenVl::load(files_.path(), std::make_shared<cuda::CudaOps>(GetParam().type, 0, attention),
                        {true, true});
  }
  /// How far `values` may be from the CPU's `f32` and, in bf16, `same` results: a share of the largest value in f32, three
  /// times the CPU's own distance between the types in bf16.
  double limit(ConstView f32, ConstView same, double share) const {
    return GetParam().type == DType::f32 ? share * largest(f32) : 3 * distance(f32, same);
  }
  TinyModel files_{GetParam().tied};
};
INSTANTIATE_TEST_SUITE_P(Settings, CudaNetwork, ::testing::ValuesIn(testing::kModelSettings));

TEST_P(CudaNetwork, VisionAndDecoder) {
  const auto exact = load_cpu(DType::f32), cpu = load_cpu(GetParam().type), device = load_cuda();
  const Prompt reference(*exact), here(*cpu), there(*device);
  const Tensor features = copied_to_host(device->ops().memory(), there.features.view(), "test");
  EXPECT_LE(distance(features.view(), here.features.view()),
            limit(reference.features.view(), here.features.view(), kLogits));
  for (const bool adapted : {false, true}) {
    const auto logits = [&](const QwenVl& model, const Prompt& prompt) {
      const auto adapter = adapted ? pack_adapter(model, random_adapter(model.config(), 2)) : nullptr;
      return testing::logits_of(model, testing::hidden_of(model, *prompt.input, adapter.get()).view());
    };
    const Tensor f32 = logits(*exact, reference), same = logits(*cpu, here), results = logits(*device, there);
    EXPECT_LE(distance(results.view(), same.view()), limit(f32.view(), same.view(), kLogits));
  }
}

TEST_P(CudaNetwork, VisionAttentionByCudnn) {
  if (GetParam().type != DType::bf16) GTEST_SKIP() << "cuDNN's attention is only used in bf16";
  const auto exact = load_cpu(DType::f32), cpu = load_cpu(DType::bf16), own = load_cuda();
  const auto cudnn = load_cuda(VisionAttentionBy::cudnn);
  // Windows are 2x2 cells: the first two pictures have edges of windows.
  const std::vector<Grid> grids{{1, 6, 10}, {1, 10, 6}, {1, 4, 4}, {1, 2, 2}};
  std::vector<std::vector<float>> values;
  std::vector<ImagePatches> pictures;
  values.reserve(grids.size());
  for (const Grid& grid : grids)
    values.push_back(testing::random_values(
        static_cast<std::size_t>(grid[1] * grid[2] * TinyModel::kPatchValues), 2, values.size() + 1));
  for (std::size_t i = 0; i < grids.size(); ++i) pictures.push_back({grids[i], values[i]});
  const auto features = [&](const QwenVl& model, std::span<const ImagePatches> images) {
    return copied_to_host(model.ops().memory(), model.encode_images(images).view(), "test");
  };
  const Tensor f32 = features(*exact, pictures), same = features(*cpu, pictures);
  const Tensor together = features(*cudnn, pictures);
  EXPECT_LE(distance(together.view(), same.view()), limit(f32.view(), same.view(), kLogits));
  EXPECT_FALSE(same_bits(together.view(), features(*own, pictures).view()))
      << "our own kernel rounds queries after scaling them";
  std::int64_t row = 0;
  for (const ImagePatches& picture : pictures) {
    const Tensor alone = features(*cudnn, std::span(&picture, 1));
    EXPECT_TRUE(same_bits(alone.view(), together.view().row_range(row, alone.rows()))) << "row " << row;
    row += alone.rows();
  }
  EXPECT_EQ(row, together.rows());
}

TEST_P(CudaNetwork, GenerationIsTheCpus) {
  const testing::Results expected = generate(*load_cpu(GetParam().type));
  const testing::Results results = generate(*load_cuda());
  ASSERT_EQ(results.size(), 9U);
  for (const auto& [key, result] : expected) {
    SCOPED_TRACE(key.first);
    const Generated& other = results.at(key);
    ASSERT_FALSE(other.ids.empty());
    if (GetParam().type != DType::f32) continue;  // a draw may lie within bf16's rounding of a boundary
    EXPECT_EQ(other.ids, result.ids);
  }
}

TEST_P(CudaNetwork, Updates) {
  for (const bool recompute : {false, true}) {
    LearnerOptions options;
    options.objective.beta = 0.05;
    // No token is clipped. Close to a bound, rounding decides whether a token has a gradient at all.
    options.objective.clip_low = 1;
    options.objective.clip_high = 1e6;
    options.max_grad_norm = 0.5;
    options.longest_allowed = 16;
    options.recompute_layers = recompute;
    options.dropout = recompute ? 0.1 : 0.0;
    const auto exact = train([&] { return load_cpu(DType::f32); }, options);
    const auto expected = train([&] { return load_cpu(GetParam().type); }, options);
    const auto results = train([&] { return load_cuda(); }, options);
    for (std::size_t rank = 0; rank < 2; ++rank) {
      EXPECT_GT(results[rank].grad_norm, 0);
      const auto compare = [&](auto member) {
        const ConstView f32 = row_of(exact[rank].*member), same = row_of(expected[rank].*member);
        EXPECT_LE(distance(row_of(results[rank].*member), same), limit(f32, same, kGradient));
      };
      compare(&testing::Outcome::gradient);
      compare(&testing::Outcome::m);
      ASSERT_EQ(results[rank].records.size(), 3U);
    }
  }
}

class CudaRuns : public CudaNetwork {
 protected:
  /// On the CUDA backend, compared with the same run on the CPU: the texts in f32, and the gradient of the last update.
  testing::RunOutcome compared(const testing::RunSetting& setting,
                               const FrozenParts* frozen = nullptr) const {
    const auto on_cpu = [&](DType type) {
      return testing::run_steps(
          *QwenVl::load(files_.path(), make_ops({"cpu", type, 0}), {true, true, nullptr, frozen}), setting);
    };
    testing::RunOutcome results =
        testing::run_steps(*QwenVl::load(files_.path(), std::make_shared<cuda::CudaOps>(GetParam().type),
                                         {true, true, nullptr, frozen}),
                           setting);
    const testing::RunOutcome expected = on_cpu(DType::f32);
    EXPECT_EQ(results.steps.size(), 3U);
    for (std::size_t s = 0; s < results.steps.size(); ++s)
      EXPECT_GT(results.steps[s].update.grad_norm, 0) << s;
    if (GetParam().type == DType::f32) {
      for (std::size_t s = 0; s < results.steps.size(); ++s)
        EXPECT_EQ(results.steps[s].texts, expected.steps[s].texts) << "step " << s + 1;
      EXPECT_LE(distance(row_of(results.gradient), row_of(expected.gradient)),
                kGradient * largest(row_of(expected.gradient)));
    }
    return results;
  }
};
INSTANTIATE_TEST_SUITE_P(Settings, CudaRuns,
                         ::testing::Values(testing::ModelSetting{DType::f32, true},
                                           testing::ModelSetting{DType::bf16, false}));

// The actor samples with one version of the adapter while the learner has the next.
TEST_P(CudaRuns, PolicyLag) {
  const testing::RunOutcome lagging = compared({.lag = 1});
  for (std::size_t s = 0; s < lagging.steps.size(); ++s)
    EXPECT_EQ(lagging.steps[s].update.logp_max_gap > 0, s > 0) << "step " << s + 1;
  const testing::RunOutcome at_once = testing::run_steps(*load_cpu(DType::f32), {});
  EXPECT_NE(at_once.steps.back().texts, lagging.steps.back().texts) << "the lag makes no difference";
}

TEST_P(CudaRuns, TwoUpdatesPerRollout) {
  const testing::RunOutcome twice = compared({.updates = 2});
  for (const testing::RunStep& step : twice.steps) {
    EXPECT_EQ(step.update.logp_max_gap, 0);
    EXPECT_EQ(step.update.ratio_max_deviation, 0);
    EXPECT_GT(step.ratio_max_deviation_at_end, 0);
  }
}

// The reference keeps the start adapter, and its parts on the vision tower are merged into the weights.
TEST_P(CudaRuns, FrozenStartAdapter) {
  const auto parts = testing::random_frozen_parts(ModelConfig::load(files_.path()), 4, "visual", 0.05);
  const testing::RunOutcome moved = compared({}, parts.get());
  for (const testing::RunStep& step : moved.steps) EXPECT_EQ(step.update.logp_max_gap, 0);
  EXPECT_EQ(moved.steps.front().update.kl, 0);
  EXPECT_GT(moved.steps.back().update.kl, 0);
  EXPECT_NE(testing::run_steps(*load_cpu(DType::f32), {}).steps.front().texts, moved.steps.front().texts)
      << "the merged parts make no difference";
}

}  // namespace
}  // namespace biqa
