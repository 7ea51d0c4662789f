// SPDX-License-Identifier: Apache-2.0
// The CPU's row kernels of all instruction sets against one another; rows_test.cpp holds the best of them to the formulas.
#include "ops/cpu/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "support/compare.h"

namespace biqa {
namespace {

using testing::random_tensor;
using testing::relative_bound;
using testing::same_bits;

constexpr std::array<std::int64_t, 8> kWidths{1, 7, 15, 16, 17, 33, 80, 300};
constexpr std::array<DType, 2> kTypes{DType::f32, DType::bf16};
constexpr double kUnit = 0x1.0p-24;

struct InstructionSet {
  const char* name;
  const cpu::Kernels* kernels;
};
std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets{{"baseline", &cpu::baseline::table()}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    sets.push_back({"avx2", &cpu::avx2::table()});
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    sets.push_back({"avx512", &cpu::avx512::table()});
  }
#endif
  return sets;
}

// The oracle holds the best instruction set to account; the others must be as near to it as rounding allows
// (a fused multiply-add rounds once where the baseline rounds twice).
TEST(InstructionSets, Agree) {
  const auto sets = instruction_sets();
  if (sets.size() < 2) GTEST_SKIP() << "this machine has the baseline instruction set only";
  for (const std::int64_t n : kWidths) {
    const Tensor x = random_tensor(DType::f32, 1, n, 3, 1);
    const Tensor w = random_tensor(DType::f32, 1, n, 3, 2);
    const Tensor d = random_tensor(DType::f32, 1, n, 3, 3);
    struct Results {
      std::vector<float> values;
      std::vector<double> magnitudes;
    };
    const auto run = [&](const cpu::Kernels& k) {
      const auto size = static_cast<std::size_t>(n);
      Results all;
      std::vector<float> y(size, 0.0F);
      std::vector<float> z(size, 0.0F);
      const auto keep = [&](const std::vector<float>& values, double magnitude) {
        for (const float v : values) {
          all.values.push_back(v);
          all.magnitudes.push_back(magnitude);
        }
      };
      k.rms_norm(x.row<float>(0), w.row<float>(0), 1e-5F, n, y.data(), false);
      keep(y, 3 * std::sqrt(static_cast<double>(n)));
      std::fill(y.begin(), y.end(), 0.5F);
      k.rms_norm_backward(x.row<float>(0), w.row<float>(0), 0.1F, d.row<float>(0), n, y.data());
      keep(y, 9 / std::sqrt(0.1) * (1 + 9 / 0.1));
      k.swiglu(x.row<float>(0), w.row<float>(0), n, y.data(), false);
      keep(y, 9);
      k.swiglu_backward(x.row<float>(0), w.row<float>(0), d.row<float>(0), n, y.data(), z.data(), false);
      keep(y, 36);
      keep(z, 9);
      k.scaled(x.row<float>(0), 1.7F, n, y.data());
      keep(y, 6);
      k.add_scaled(w.row<float>(0), -0.3F, n, y.data());
      keep(y, 7);
      k.row_exp(x.row<float>(0), n, 1.25F, 3.75F, 2.0F, y.data(), false);
      keep(y, 2);
      keep({k.dot(x.row<float>(0), w.row<float>(0), n)}, 9 * static_cast<double>(n));
      const cpu::RowStatistics s = k.row_statistics(x.row<float>(0), n, 1.25F);
      keep({s.maximum, s.sum, s.weighted}, 8 * static_cast<double>(n));
      std::vector<float> u(7, 0.0F);
      const Tensor table = random_tensor(DType::f32, n, 16, 3, 4);
      k.reduce({x.view().data(), false, n}, 1, n, table.row<float>(0), 7, 16, u.data(), 7);
      keep(u, 9 * static_cast<double>(n));
      const Tensor factors = random_tensor(DType::f32, 1, 7, 3, 5);
      const Tensor up = random_tensor(DType::f32, 7, n, 3, 6);
      std::fill(y.begin(), y.end(), 0.5F);
      k.expand(factors.row<float>(0), 7, 1, 7, up.row<float>(0), n, 2.0F, n, y.data(), n);
      keep(y, 2 * 7 * 9 + 1);
      std::vector<float> outer(7 * size, 0.25F);
      k.outer(factors.row<float>(0), 7, {x.view().data(), false, n}, 1, 7, 2.0F, 0, n, outer.data(), n);
      keep(outer, 2 * 9 + 1);
      return all;
    };
    const Results reference = run(*sets.front().kernels);
    for (std::size_t s = 1; s < sets.size(); ++s) {
      const Results other = run(*sets[s].kernels);
      ASSERT_EQ(other.values.size(), reference.values.size());
      for (std::size_t i = 0; i < reference.values.size(); ++i) {
        const double bound = 2 * (3 * relative_bound(n) + 12 * kUnit) * reference.magnitudes[i];
        ASSERT_NEAR(other.values[i], reference.values[i], bound)
            << sets[s].name << " width " << n << " value " << i;
      }
    }
  }
}

// The sums of a kernel have one order whatever the hardware, and both vector sets have fused multiply-adds.
TEST(InstructionSets, VectorSetsAgreeToTheBit) {
  const auto sets = instruction_sets();
  if (sets.size() < 3) GTEST_SKIP() << "this machine lacks AVX-512";
  const Tensor x = random_tensor(DType::f32, 1, 333, 3, 1);
  const Tensor w = random_tensor(DType::f32, 1, 333, 3, 2);
  for (const DType type : kTypes) {
    Tensor a(type, 1, 333, "test");
    Tensor b(type, 1, 333, "test");
    const bool narrow = type == DType::bf16;
    sets[1].kernels->rms_norm(x.row<float>(0), w.row<float>(0), 1e-6F, 333, a.view().data(), narrow);
    sets[2].kernels->rms_norm(x.row<float>(0), w.row<float>(0), 1e-6F, 333, b.view().data(), narrow);
    EXPECT_TRUE(same_bits(a.view(), b.view()));
    sets[1].kernels->swiglu(x.row<float>(0), w.row<float>(0), 333, a.view().data(), narrow);
    sets[2].kernels->swiglu(x.row<float>(0), w.row<float>(0), 333, b.view().data(), narrow);
    EXPECT_TRUE(same_bits(a.view(), b.view()));
  }
}

TEST(InstructionSets, ConversionToBf16RoundsToEvenAndKeepsNan) {
  std::vector<float> values;
  for (const std::uint32_t bits :
       {0x3f808000U, 0x3f818000U, 0x3f807fffU, 0x3f808001U, 0x7f7fffffU, 0x7f800000U, 0xff800000U,
        0x7f800001U, 0xffffffffU, 0x00000001U, 0x80000000U}) {
    values.push_back(std::bit_cast<float>(bits));
  }
  for (const auto& set : instruction_sets()) {
    for (const std::size_t repeat : {1U, 3U}) {  // 11 values end in a part of a vector, 33 also fill two
      std::vector<float> source;
      for (std::size_t i = 0; i < repeat; ++i) source.insert(source.end(), values.begin(), values.end());
      std::vector<std::uint16_t> target(source.size());
      const auto n = static_cast<std::int64_t>(source.size());
      set.kernels->convert({source.data(), false, n}, {target.data(), true, n}, 1, n);
      for (std::size_t i = 0; i < source.size(); ++i)
        EXPECT_EQ(target[i], to_bf16(source[i]).bits) << set.name << " " << i;
    }
  }
}

// Widths of whole vectors and parts of them; the NaN in every lane.
TEST(InstructionSets, AnExponentialOfNanIsNan) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& set : instruction_sets()) {
    const cpu::Kernels& k = *set.kernels;
    for (const std::int64_t n : {1, 16, 37}) {
      for (std::int64_t place = 0; place < n; ++place) {
        std::vector<float> x(static_cast<std::size_t>(n), 0.5F);
        const std::vector<float> ones(x.size(), 1.0F);
        const auto at = static_cast<std::size_t>(place);
        x[at] = kNan;
        EXPECT_TRUE(std::isnan(k.row_statistics(x.data(), n, 1.0F).sum)) << set.name << n << " " << place;
        std::vector<float> y(x.size()), z(x.size());
        const auto only_there = [&](const std::vector<float>& values) {
          for (std::size_t i = 0; i < values.size(); ++i)
            EXPECT_EQ(std::isnan(values[i]), i == at) << set.name << n << " " << i;
        };
        k.row_exp(x.data(), n, 1.0F, 0.0F, 1.0F, y.data(), false);
        only_there(y);
        k.swiglu(x.data(), ones.data(), n, y.data(), false);
        only_there(y);
        k.swiglu_backward(x.data(), ones.data(), ones.data(), n, y.data(), z.data(), false);
        only_there(y);
        only_there(z);
        std::vector<std::uint16_t> narrow(x.size());
        k.row_exp(x.data(), n, 1.0F, 0.0F, 1.0F, narrow.data(), true);
        for (std::size_t i = 0; i < y.size(); ++i) y[i] = to_float(Bf16{narrow[i]});
        only_there(y);
      }
    }
  }
}

/// The backward pass of attention for 8 queries. Query i attends to 16 + i keys.
struct BackwardOfAttention {
  static constexpr std::int64_t kDim = 24, kPadded = 32, kKeys = 32;
  Tensor q = random_tensor(DType::f32, cpu::kQueryBlock, kPadded, 1, 11);
  Tensor d_out = random_tensor(DType::f32, cpu::kQueryBlock, kPadded, 1, 12);
  Tensor keys = random_tensor(DType::f32, kKeys, kPadded, 1, 13);
  Tensor values = random_tensor(DType::f32, kKeys, kPadded, 1, 14);
  Tensor d_q{DType::f32, cpu::kQueryBlock, kPadded, "test"};
  Tensor d_keys{DType::f32, kKeys, kPadded, "test"};
  Tensor d_values{DType::f32, kKeys, kPadded, "test"};

  void run(const cpu::Kernels& kernels) {
    Tensor keys_by_page(DType::f32, 1, kKeys * kDim, "test");
    Tensor values_by_page(DType::f32, 1, kKeys * kDim, "test");
    for (std::int64_t key = 0; key < kKeys; ++key) {
      for (std::int64_t d = 0; d < kDim; ++d) {
        const std::int64_t at = key / 16 * 16 * kDim + d * 16 + key % 16;
        keys_by_page.row<float>(0)[at] = keys.row<float>(key)[d];
        values_by_page.row<float>(0)[at] = values.row<float>(key)[d];
      }
    }
    Tensor scores(DType::f32, std::int64_t{2} * cpu::kQueryBlock, kKeys, "test");
    cpu::AttendBackwardBlock block{};
    block.queries = cpu::kQueryBlock;
    block.head_dim = kDim;
    block.padded_dim = kPadded;
    for (int i = 0; i < cpu::kQueryBlock; ++i) {
      block.q[i] = q.row<float>(i);
      block.d_out[i] = d_out.row<float>(i);
      block.lse[i] = 3;
      block.lengths[i] = 16 + i;
      block.d_q[i] = d_q.row<float>(i);
    }
    block.keys_transposed = keys_by_page.row<float>(0);
    block.values_transposed = values_by_page.row<float>(0);
    block.keys = keys.row<float>(0);
    block.scale = 0.2F;
    block.scores = scores.row<float>(0);
    block.scores_stride = kKeys;
    d_keys.zero();
    d_values.zero();
    block.d_keys = d_keys.row<float>(0);
    block.d_values = d_values.row<float>(0);
    kernels.attend_backward(block);
  }
};

TEST(AttentionBackwardKernel, WhatAQueryMustNotSeeDoesNotReachItsGradients) {
  for (const auto& [name, kernels] : instruction_sets()) {
    SCOPED_TRACE(name);
    BackwardOfAttention expected;
    expected.run(*kernels);
    for (const float wrong :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      BackwardOfAttention keys;
      for (std::int64_t key = 19; key < keys.kKeys; ++key) {
        std::fill_n(keys.keys.row<float>(key), keys.kPadded, wrong);
        std::fill_n(keys.values.row<float>(key), keys.kPadded, wrong);
      }
      keys.run(*kernels);
      EXPECT_TRUE(same_bits(keys.d_q.view().row_range(0, 4), expected.d_q.view().row_range(0, 4)))
          << "the first four queries see the keys 0 to 18";
      EXPECT_FALSE(std::isfinite(keys.d_q.row<float>(4)[0]));

      BackwardOfAttention query;
      std::fill_n(query.q.row<float>(0), query.kPadded, wrong);
      std::fill_n(query.d_out.row<float>(0), query.kPadded, wrong);
      query.run(*kernels);
      const auto later = [](Tensor& gradient) { return gradient.view().row_range(16, 16); };
      EXPECT_TRUE(same_bits(later(query.d_keys), later(expected.d_keys))) << "query 0 does not see them";
      EXPECT_TRUE(same_bits(later(query.d_values), later(expected.d_values)));
      EXPECT_FALSE(std::isfinite(query.d_values.row<float>(0)[0]));
    }
  }
}

}  // namespace
}  // namespace biqa
