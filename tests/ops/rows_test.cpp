// SPDX-License-Identifier: Apache-2.0
// Operations on rows against their formulas, and their independence of the batch.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numbers>

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

constexpr double kUnit = 0x1.0p-24;

class RmsNormBackward : public ::testing::TestWithParam<testing::RmsNormBackwardCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, RmsNormBackward, ::testing::ValuesIn(testing::rms_norm_backward_cases()));
class Swiglu : public ::testing::TestWithParam<testing::ElementsCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, Swiglu, ::testing::ValuesIn(testing::swiglu_cases()));
class SwigluBackward : public ::testing::TestWithParam<testing::ElementsCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, SwigluBackward, ::testing::ValuesIn(testing::swiglu_backward_cases()));
class Gelu : public ::testing::TestWithParam<testing::ElementsCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, Gelu, ::testing::ValuesIn(testing::gelu_cases()));
class Rotate : public ::testing::TestWithParam<testing::RotateCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, Rotate, ::testing::ValuesIn(testing::rotate_cases()));
class Select : public ::testing::TestWithParam<testing::SelectCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, Select, ::testing::ValuesIn(testing::select_cases()));
class RowBatch : public ::testing::TestWithParam<testing::RowBatchCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, RowBatch, ::testing::ValuesIn(testing::row_batch_cases()));

TEST_P(RmsNormBackward, IsTheDerivative) {
  const auto& [rows, n, epsilon, seed] = GetParam();
  const auto ops = testing::make_operations(DType::f32, 2);
  const Tensor x = random_tensor(DType::f32, rows, n, 2, seed);
  const Tensor weight = random_tensor(DType::f32, 1, n, 2, seed + 1);
  const Tensor dy = random_tensor(DType::f32, rows, n, 2, seed + 2);
  const Tensor before = random_tensor(DType::f32, rows, n, 2, seed + 3);
  Tensor d_x = before.clone();
  ops->rms_norm_backward(x.view(), weight.view(), epsilon, dy.view(), d_x.view());
  const Real w = matrix_of(weight.view());
  const Real d = matrix_of(dy.view());
  const Real xs = matrix_of(x.view());
  const auto eps = static_cast<double>(epsilon);
  const Real g = oracle::gradient(
      xs, [&](const Complex& z) { return oracle::contract(d, oracle::rms_norm(z, w, eps)); });
  ExpectedMatrix expected(rows, n);
  for (std::int64_t t = 0; t < rows; ++t) {
    double squares = 0;
    double products = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      squares += xs(t, i) * xs(t, i);
      products += std::abs(d(t, i) * w(0, i) * xs(t, i));
    }
    const double r = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (std::int64_t i = 0; i < n; ++i) {
      // Both terms of the formula carry the errors of r (three times at most) and of the mean; they may cancel.
      const double terms =
          r * (std::abs(d(t, i) * w(0, i)) + std::abs(xs(t, i)) * r * r * products / static_cast<double>(n));
      const double value = element_of(before.view(), t, i) + g(t, i);
      expected.set(t, i, value, (3 * relative_bound(n) + 8 * kUnit) * terms + kUnit * std::abs(value));
    }
  }
  EXPECT_TRUE(expected.agrees_with(d_x.view()));
}

// silu and its derivative: the exponential (2 units), a sum, a quotient, products.
constexpr double kSiluBound = 12 * kUnit;

TEST_P(Swiglu, AgreesWithTheFormula) {
  const auto& [rows, n, type, seed] = GetParam();
  const auto ops = testing::make_operations(DType::f32, 2);
  const Tensor gate_up = random_tensor(DType::f32, rows, 2 * n, 12, seed);
  Tensor h(type, rows, n, "test");
  ops->swiglu(gate_up.view(), h.view());
  const Real y = oracle::swiglu(matrix_of(gate_up.view()));
  ExpectedMatrix expected(rows, n);
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t i = 0; i < n; ++i)
      expected.set(t, i, y(t, i), (kSiluBound + roundoff(type)) * std::abs(y(t, i)));
  }
  EXPECT_TRUE(expected.agrees_with(h.view()));
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

TEST_P(SwigluBackward, IsTheDerivative) {
  const auto& [rows, n, type, seed] = GetParam();
  const auto ops = testing::make_operations(DType::f32, 2);
  const Tensor gate_up = random_tensor(DType::f32, rows, 2 * n, 6, seed);
  const Tensor dh = random_tensor(DType::f32, rows, n, 2, seed + 1);
  Tensor d(type, rows, 2 * n, "test");
  ops->swiglu_backward(gate_up.view(), dh.view(), d.view());
  const Real x = matrix_of(gate_up.view());
  const Real w = matrix_of(dh.view());
  const Real g =
      oracle::gradient(x, [&](const Complex& z) { return oracle::contract(w, oracle::swiglu(z)); });
  ExpectedMatrix expected(rows, 2 * n);
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t i = 0; i < 2 * n; ++i) {
      const double gate = x(t, i % n);
      const double other = i < n ? x(t, n + i) : 1.0;
      // 1 + a(1 − s) may cancel: the bound is that of its parts.
      const double parts = std::abs(w(t, i % n) * other) * (i < n ? 1 + std::abs(gate) : std::abs(gate));
      expected.set(t, i, g(t, i), kSiluBound * parts + roundoff(type) * std::abs(g(t, i)));
    }
  }
  EXPECT_TRUE(expected.agrees_with(d.view()));
}

TEST_P(Gelu, AgreesWithTheFormula) {
  const auto& [rows, columns, type, seed] = GetParam();
  const auto ops = testing::make_operations(DType::f32, 2);
  const Tensor x = random_tensor(DType::f32, rows, columns, 6, seed);
  Tensor y(type, rows, columns, "test");
  ops->gelu(x.view(), y.view());
  ExpectedMatrix expected(rows, columns);
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t i = 0; i < columns; ++i) {
      const double value = element_of(x.view(), t, i);
      // 1 + erf cancels for negative x, so its error counts from 1.
      expected.set(t, i, oracle::gelu(value),
                   6 * kUnit * std::abs(value) + roundoff(type) * std::abs(oracle::gelu(value)));
    }
  }
  EXPECT_TRUE(expected.agrees_with(y.view()));
}

TEST_P(Rotate, TurnsPairsAndInverseTurnsBack) {
  const auto& [rows, heads, dim, seed] = GetParam();
  const auto ops = testing::make_operations(DType::f32, 2);
  Tensor wide = random_tensor(DType::f32, rows, heads * dim + 5, 2, seed);
  const View x = wide.view().column_range(2, heads * dim);
  const Real before = matrix_of(x);
  const Tensor angles = random_tensor(DType::f32, rows, dim / 2, std::numbers::pi, seed + 1);
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
    EXPECT_TRUE(expected.agrees_with(x));
    if (inverse) {
      EXPECT_TRUE(round_trip.agrees_with(x));
    }
  }
}

TEST_P(Select, ConvertGatherScatterScaleEmbed) {
  const auto& [all, columns, selected, factors, seed] = GetParam();
  const auto count = static_cast<std::int64_t>(selected.size());
  const std::int64_t first = 10;  // of the rows that are added and scaled
  const auto ops = testing::make_operations(DType::f32, 2);
  const Tensor x = random_tensor(DType::f32, all, columns, 3, seed);
  Tensor narrow(DType::bf16, all, columns, "test");
  ops->convert(x.view(), narrow.view());
  Tensor back(DType::f32, all, columns, "test");
  ops->convert(narrow.view(), back.view());
  for (std::size_t i = 0; i < static_cast<std::size_t>(x.size()); ++i) {
    ASSERT_EQ(narrow.span<Bf16>()[i].bits, to_bf16(x.span<float>()[i]).bits);
    ASSERT_EQ(back.span<float>()[i], to_float(narrow.span<Bf16>()[i]));
  }
  for (const ConstView& source : {x.const_view(), narrow.const_view()}) {
    Tensor gathered(source.type(), count, columns, "test");
    ops->gather_rows(source, selected, gathered.view());
    Tensor embedded(DType::f32, count, columns, "test");
    ops->embed(source, selected, embedded.view());
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t row = selected[static_cast<std::size_t>(i)];
      EXPECT_TRUE(same_bits(gathered.const_view().row_range(i, 1), source.row_range(row, 1)));
      for (std::int64_t c = 0; c < columns; ++c)
        EXPECT_EQ(embedded.row<float>(i)[c], element_of(source, row, c));
    }
  }
  Tensor sum = x.clone();
  ops->scatter_add_rows(x.view().row_range(first, count), selected, sum.view());
  Tensor expected = x.clone();
  for (std::int64_t i = 0; i < count; ++i) {
    float* row = expected.row<float>(selected[static_cast<std::size_t>(i)]);
    for (std::int64_t c = 0; c < columns; ++c) row[c] += x.row<float>(first + i)[c];
  }
  EXPECT_TRUE(same_bits(sum.view(), expected.view()));
  Tensor scaled(DType::f32, count, columns, "test");
  ops->scale_rows(x.view().row_range(first, count), factors, scaled.view());
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t c = 0; c < columns; ++c)
      EXPECT_EQ(scaled.row<float>(i)[c], x.row<float>(first + i)[c] * factors[static_cast<std::size_t>(i)]);
  }
}

TEST_P(RowBatch, ARowDoesNotDependOnItsBatchOrTheThreads) {
  const testing::RowBatchCase& c = GetParam();
  const Tensor x = random_tensor(DType::f32, c.rows, c.norm_columns, 2, c.seed);
  const Tensor weight = random_tensor(DType::f32, 1, c.norm_columns, 2, c.seed + 1);
  const Tensor gate_up = random_tensor(DType::f32, c.rows, 2 * c.swiglu_columns, 2, c.seed + 2);
  Tensor normed(c.output, c.rows, c.norm_columns, "test");
  Tensor product(c.output, c.rows, c.swiglu_columns, "test");
  const auto single = testing::make_operations(c.output, 1);
  for (std::int64_t r = 0; r < c.rows; ++r) {
    single->rms_norm(x.view().row_range(r, 1), weight.view(), 1e-6F, normed.view().row_range(r, 1));
    single->swiglu(gate_up.view().row_range(r, 1), product.view().row_range(r, 1));
  }
  for (const int threads : {1, 2}) {
    const auto ops = testing::make_operations(c.output, threads);
    for (const std::int64_t rows : c.batches) {
      const std::int64_t first = c.rows - rows;
      Tensor y(c.output, rows, c.norm_columns, "test");
      ops->rms_norm(x.view().row_range(first, rows), weight.view(), 1e-6F, y.view());
      EXPECT_TRUE(same_bits(y.view(), normed.view().row_range(first, rows))) << rows;
      Tensor h(c.output, rows, c.swiglu_columns, "test");
      ops->swiglu(gate_up.view().row_range(first, rows), h.view());
      EXPECT_TRUE(same_bits(h.view(), product.view().row_range(first, rows))) << rows;
    }
  }
}

}  // namespace
}  // namespace biqa
