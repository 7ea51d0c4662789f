// SPDX-License-Identifier: Apache-2.0
// Operations on rows against their formulas, their independence of the batch, and the kernels of all
// instruction sets against one another.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "ops/cpu/kernels.h"
#include "support/compare.h"
#include "support/operations.h"
#include "support/oracle.h"

namespace biqa {
namespace {

using oracle::Complex;
using oracle::matrix_of;
using oracle::Real;
using testing::element_of;
using testing::ExpectedMatrix;
using testing::random_tensor;
using testing::relative_bound;
using testing::roundoff;
using testing::same_bits;

constexpr std::array<std::int64_t, 8> kWidths{1, 7, 15, 16, 17, 33, 80, 300};
constexpr std::array<DType, 2> kTypes{DType::f32, DType::bf16};
constexpr double kUnit = 0x1.0p-24;

TEST(Rows, RmsNormBackwardIsTheDerivative) {
  const auto ops = testing::make_operations(DType::f32, 2);
  constexpr float kEpsilon = 1e-3F;
  for (const std::int64_t n : kWidths) {
    const std::int64_t rows = 3;
    const Tensor x = random_tensor(DType::f32, rows, n, 2, 1);
    const Tensor weight = random_tensor(DType::f32, 1, n, 2, 2);
    const Tensor dy = random_tensor(DType::f32, rows, n, 2, 3);
    const Tensor before = random_tensor(DType::f32, rows, n, 2, 4);
    Tensor d_x = before.clone();
    ops->rms_norm_backward(x.view(), weight.view(), kEpsilon, dy.view(), d_x.view());
    const Real w = matrix_of(weight.view());
    const Real d = matrix_of(dy.view());
    const Real xs = matrix_of(x.view());
    const Real g = oracle::gradient(xs, [&](const Complex& z) {
      return oracle::contract(d, oracle::rms_norm(z, w, static_cast<double>(kEpsilon)));
    });
    ExpectedMatrix expected(rows, n);
    for (std::int64_t t = 0; t < rows; ++t) {
      double squares = 0;
      double products = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        squares += xs(t, i) * xs(t, i);
        products += std::abs(d(t, i) * w(0, i) * xs(t, i));
      }
      const double r = 1 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(kEpsilon));
      for (std::int64_t i = 0; i < n; ++i) {
        // Both terms of the formula carry the errors of r (three times at most) and of the mean; they may cancel.
        const double terms = r * (std::abs(d(t, i) * w(0, i)) +
                                  std::abs(xs(t, i)) * r * r * products / static_cast<double>(n));
        const double value = element_of(before.view(), t, i) + g(t, i);
        expected.set(t, i, value, (3 * relative_bound(n) + 8 * kUnit) * terms + kUnit * std::abs(value));
      }
    }
    EXPECT_TRUE(expected.agrees_with(d_x.view())) << n;
  }
}

// silu and its derivative: the exponential (2 units), a sum, a quotient, products.
constexpr double kSiluBound = 12 * kUnit;

TEST(Rows, SwigluAgreesWithTheFormula) {
  const auto ops = testing::make_operations(DType::f32, 2);
  for (const DType type : kTypes) {
    for (const std::int64_t n : kWidths) {
      const Tensor gate_up = random_tensor(DType::f32, 5, 2 * n, 12, 1);
      Tensor h(type, 5, n, "test");
      ops->swiglu(gate_up.view(), h.view());
      const Real y = oracle::swiglu(matrix_of(gate_up.view()));
      ExpectedMatrix expected(5, n);
      for (std::int64_t t = 0; t < 5; ++t) {
        for (std::int64_t i = 0; i < n; ++i)
          expected.set(t, i, y(t, i), (kSiluBound + roundoff(type)) * std::abs(y(t, i)));
      }
      EXPECT_TRUE(expected.agrees_with(h.view())) << n << " " << name_of(type);
    }
  }
}

TEST(Rows, SwigluOfLargeNumbersIsFinite) {
  const auto ops = testing::make_operations(DType::f32, 1);
  Tensor gate_up(DType::f32, 1, 8, "test");
  const std::array<float, 8> values{-1000, 1000, -88.5F, 88.5F, 1, 1, 1, 1};
  std::copy(values.begin(), values.end(), gate_up.row<float>(0));
  Tensor h(DType::f32, 1, 4, "test");
  ops->swiglu(gate_up.view(), h.view());
  EXPECT_NEAR(h.row<float>(0)[0], 0, 1e-34);
  EXPECT_EQ(h.row<float>(0)[1], 1000);
  EXPECT_NEAR(h.row<float>(0)[2], 0, 1e-34);
  EXPECT_EQ(h.row<float>(0)[3], 88.5F);
}

TEST(Rows, SwigluBackwardIsTheDerivative) {
  const auto ops = testing::make_operations(DType::f32, 2);
  for (const DType type : kTypes) {
    for (const std::int64_t n : {1, 15, 16, 33, 80}) {
      const Tensor gate_up = random_tensor(DType::f32, 2, 2 * n, 6, 1);
      const Tensor dh = random_tensor(DType::f32, 2, n, 2, 2);
      Tensor d(type, 2, 2 * n, "test");
      ops->swiglu_backward(gate_up.view(), dh.view(), d.view());
      const Real x = matrix_of(gate_up.view());
      const Real w = matrix_of(dh.view());
      const Real g =
          oracle::gradient(x, [&](const Complex& z) { return oracle::contract(w, oracle::swiglu(z)); });
      ExpectedMatrix expected(2, 2 * n);
      for (std::int64_t t = 0; t < 2; ++t) {
        for (std::int64_t i = 0; i < 2 * n; ++i) {
          const double gate = x(t, i % n);
          const double other = i < n ? x(t, n + i) : 1.0;
          // 1 + a(1 − s) may cancel: the bound is that of its parts.
          const double parts = std::abs(w(t, i % n) * other) * (i < n ? 1 + std::abs(gate) : std::abs(gate));
          expected.set(t, i, g(t, i), kSiluBound * parts + roundoff(type) * std::abs(g(t, i)));
        }
      }
      EXPECT_TRUE(expected.agrees_with(d.view())) << n << " " << name_of(type);
    }
  }
}

TEST(Rows, GeluAgreesWithTheFormula) {
  const auto ops = testing::make_operations(DType::f32, 2);
  for (const DType type : kTypes) {
    const Tensor x = random_tensor(DType::f32, 9, 33, 6, 1);
    Tensor y(type, 9, 33, "test");
    ops->gelu(x.view(), y.view());
    ExpectedMatrix expected(9, 33);
    for (std::int64_t t = 0; t < 9; ++t) {
      for (std::int64_t i = 0; i < 33; ++i) {
        const double value = element_of(x.view(), t, i);
        // 1 + erf cancels for negative x, so its error counts from 1.
        expected.set(t, i, oracle::gelu(value),
                     6 * kUnit * std::abs(value) + roundoff(type) * std::abs(oracle::gelu(value)));
      }
    }
    EXPECT_TRUE(expected.agrees_with(y.view())) << name_of(type);
  }
}

TEST(Rows, RotateTurnsPairsAndInverseTurnsBack) {
  const auto ops = testing::make_operations(DType::f32, 2);
  for (const std::int64_t dim : {2, 8, 16, 20, 32, 80, 128}) {
    const std::int64_t rows = 37;
    const std::int64_t heads = 3;
    Tensor wide = random_tensor(DType::f32, rows, heads * dim + 5, 2, 1);
    const View x = wide.view().column_range(2, heads * dim);
    const Real before = matrix_of(x);
    const Tensor angles = random_tensor(DType::f32, rows, dim / 2, std::numbers::pi, 2);
    Tensor cosines(DType::f32, rows, dim / 2, "test");
    Tensor sines(DType::f32, rows, dim / 2, "test");
    for (std::int64_t i = 0; i < angles.size(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      cosines.span<float>()[at] = std::cos(angles.span<float>()[at]);
      sines.span<float>()[at] = std::sin(angles.span<float>()[at]);
    }
    for (const bool inverse : {false, true}) {
      const Real source = matrix_of(x);
      const Real turned =
          oracle::rotate(source, dim, matrix_of(cosines.view()), matrix_of(sines.view()), inverse);
      ops->rotate(x, dim, cosines.view(), sines.view(), inverse);
      ExpectedMatrix expected(rows, heads * dim);
      ExpectedMatrix round_trip(rows, heads * dim);
      for (std::int64_t t = 0; t < rows; ++t) {
        for (std::int64_t i = 0; i < heads * dim; ++i) {
          expected.set(t, i, turned(t, i), 3 * kUnit * 2 * 2);  // two products of numbers below 2 and 1
          round_trip.set(t, i, before(t, i), 16 * kUnit * 2);   // and c² + s² is 1 to rounding
        }
      }
      EXPECT_TRUE(expected.agrees_with(x)) << dim;
      if (inverse) {
        EXPECT_TRUE(round_trip.agrees_with(x)) << dim;
      }
    }
  }
}

TEST(Rows, ConvertGatherScatterScaleEmbed) {
  const auto ops = testing::make_operations(DType::f32, 2);
  const Tensor x = random_tensor(DType::f32, 70, 19, 3, 1);
  Tensor narrow(DType::bf16, 70, 19, "test");
  ops->convert(x.view(), narrow.view());
  Tensor back(DType::f32, 70, 19, "test");
  ops->convert(narrow.view(), back.view());
  for (std::size_t i = 0; i < 70 * 19; ++i) {
    ASSERT_EQ(narrow.span<Bf16>()[i].bits, to_bf16(x.span<float>()[i]).bits);
    ASSERT_EQ(back.span<float>()[i], to_float(narrow.span<Bf16>()[i]));
  }
  const std::vector<std::int64_t> rows{5, 0, 5, 69};
  for (const ConstView& source : {x.const_view(), narrow.const_view()}) {
    Tensor gathered(source.type(), 4, 19, "test");
    ops->gather_rows(source, rows, gathered.view());
    for (std::int64_t i = 0; i < 4; ++i) {
      EXPECT_TRUE(same_bits(gathered.const_view().row_range(i, 1),
                            source.row_range(rows[static_cast<std::size_t>(i)], 1)));
    }
    Tensor embedded(DType::f32, 4, 19, "test");
    ops->embed(source, rows, embedded.view());
    for (std::int64_t i = 0; i < 4; ++i) {
      for (std::int64_t c = 0; c < 19; ++c) {
        EXPECT_EQ(embedded.row<float>(i)[c], element_of(source, rows[static_cast<std::size_t>(i)], c));
      }
    }
  }
  Tensor sum = x.clone();
  ops->scatter_add_rows(x.view().row_range(10, 4), rows, sum.view());
  const std::vector<float> factors{2, -0.5F, 0, 1};
  Tensor scaled(DType::f32, 4, 19, "test");
  ops->scale_rows(x.view().row_range(10, 4), factors, scaled.view());
  for (std::int64_t c = 0; c < 19; ++c) {
    EXPECT_EQ(sum.row<float>(5)[c], (x.row<float>(5)[c] + x.row<float>(10)[c]) + x.row<float>(12)[c]);
    EXPECT_EQ(sum.row<float>(0)[c], x.row<float>(0)[c] + x.row<float>(11)[c]);
    EXPECT_EQ(sum.row<float>(69)[c], x.row<float>(69)[c] + x.row<float>(13)[c]);
    EXPECT_EQ(sum.row<float>(1)[c], x.row<float>(1)[c]);
    for (std::int64_t i = 0; i < 4; ++i) {
      EXPECT_EQ(scaled.row<float>(i)[c], x.row<float>(10 + i)[c] * factors[static_cast<std::size_t>(i)]);
    }
  }
}

TEST(Rows, ARowDoesNotDependOnItsBatchOrTheThreads) {
  for (const DType type : kTypes) {
    const Tensor x = random_tensor(DType::f32, 300, 77, 2, 1);
    const Tensor weight = random_tensor(DType::f32, 1, 77, 2, 2);
    const Tensor gate_up = random_tensor(DType::f32, 300, 66, 2, 3);
    Tensor normed(type, 300, 77, "test");
    Tensor product(type, 300, 33, "test");
    const auto single = testing::make_operations(type, 1);
    for (std::int64_t r = 0; r < 300; ++r) {
      single->rms_norm(x.view().row_range(r, 1), weight.view(), 1e-6F, normed.view().row_range(r, 1));
      single->swiglu(gate_up.view().row_range(r, 1), product.view().row_range(r, 1));
    }
    for (const int threads : {1, 2}) {
      const auto ops = testing::make_operations(type, threads);
      for (const std::int64_t rows : {2, 17, 32, 33, 64, 200, 300}) {
        Tensor y(type, rows, 77, "test");
        ops->rms_norm(x.view().row_range(300 - rows, rows), weight.view(), 1e-6F, y.view());
        EXPECT_TRUE(same_bits(y.view(), normed.view().row_range(300 - rows, rows))) << rows;
        Tensor h(type, rows, 33, "test");
        ops->swiglu(gate_up.view().row_range(300 - rows, rows), h.view());
        EXPECT_TRUE(same_bits(h.view(), product.view().row_range(300 - rows, rows))) << rows;
      }
    }
  }
}

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
