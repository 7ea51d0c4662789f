// SPDX-License-Identifier: Apache-2.0
// The CPU's row kernels of all instruction sets against one another; rows_test.cpp holds the best of them to the formulas.
#include "ops/cpu/kernels.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace biqa
