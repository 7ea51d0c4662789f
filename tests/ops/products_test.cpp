// SPDX-License-Identifier: Apache-2.0
// The comparer itself; products forward are held against the formula by op_cases_test, here the rest of the
// contract: the backward, accumulation, and that a row's bits depend on that row alone.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/operations.h"
#include "support/oracle.h"

namespace biqa {
namespace {

using testing::ExpectedMatrix;
using testing::random_tensor;
using testing::same_bits;

TEST(Compare, NoticesWhatIsWrong) {
  ExpectedMatrix expected(2, 3);
  Tensor result(DType::f32, 2, 3, "test");
  for (std::int64_t i = 0; i < 6; ++i) {
    const double value = 1.0 + static_cast<double>(i);
    expected.set(i / 3, i % 3, value, 1e-6);
    result.span<float>()[static_cast<std::size_t>(i)] = static_cast<float>(value);
  }
  EXPECT_TRUE(expected.agrees_with(result.view()));
  const auto spoiled = [&](float value) {
    Tensor copy = result.clone();
    copy.row<float>(1)[1] = value;
    return expected.agrees_with(copy.const_view());
  };
  EXPECT_TRUE(spoiled(5.0000005F));
  EXPECT_FALSE(spoiled(5.000002F));
  EXPECT_FALSE(spoiled(-5.0F));
  EXPECT_FALSE(spoiled(std::numeric_limits<float>::quiet_NaN()));
  EXPECT_FALSE(spoiled(std::numeric_limits<float>::infinity()));
  EXPECT_STREQ(spoiled(-5.0F).message(), "row 1 column 1: -5 instead of 5, allowed difference 1e-06");
  EXPECT_FALSE(expected.agrees_with(result.view().column_range(0, 2)));
  EXPECT_FALSE(expected.agrees_with(result.view().row_range(0, 1)));
  EXPECT_FALSE(ExpectedMatrix(2, 3).agrees_with(result.view())) << "a comparison of nothing must not succeed";
}

TEST(Compare, SameBitsTellsZerosAndShapesApart) {
  Tensor a(DType::f32, 1, 2, "test");
  a.zero();
  Tensor b = a.clone();
  EXPECT_TRUE(same_bits(a.view(), b.view()));
  b.row<float>(0)[1] = -0.0F;
  EXPECT_FALSE(same_bits(a.view(), b.view()));
  EXPECT_FALSE(same_bits(a.view(), a.view().column_range(0, 1)));
  const Tensor narrow(DType::bf16, 1, 2, "test");
  EXPECT_FALSE(same_bits(a.view(), narrow.view()));
}

TEST(Oracle, ComplexStepGivesTheDerivative) {
  oracle::Real x(1, 2);
  x(0, 0) = 0.3;
  x(0, 1) = -1.2;
  const oracle::Real g =
      oracle::gradient(x, [](const oracle::Complex& z) { return std::exp(z(0, 0)) * z(0, 1) * z(0, 1); });
  EXPECT_NEAR(g(0, 0), std::exp(0.3) * 1.44, 1e-14);
  EXPECT_NEAR(g(0, 1), std::exp(0.3) * -2.4, 1e-14);
}

class Products : public ::testing::TestWithParam<DType> {
 protected:
  Tensor linear(testing::Operations& ops, const FrozenLinear& packed, ConstView x) {
    Tensor y(DType::f32, x.rows(), packed.out, "test");
    ops.linear(x, packed, y.view());
    return y;
  }
};
INSTANTIATE_TEST_SUITE_P(Types, Products, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& type) { return name_of(type.param); });

struct Shape {
  std::int64_t rows, in, out;
};

TEST_P(Products, BackwardAgreesWithTheFormulaAndAccumulates) {
  const auto ops = testing::make_operations(GetParam(), 2);
  for (const Shape& s :
       {Shape{1, 1, 1}, Shape{5, 33, 17}, Shape{37, 20, 70}, Shape{66, 7, 301}, Shape{9, 300, 600}}) {
    const Tensor dy = random_tensor(GetParam(), s.rows, s.out, 2, 1);
    const Tensor weight = random_tensor(GetParam(), s.out, s.in, 2, 2);
    const Tensor before = random_tensor(DType::f32, s.rows, s.in, 2, 3);
    const auto packed = ops->pack(weight.view(), {}, true);
    for (const bool accumulate : {false, true}) {
      Tensor dx = before.clone();
      ops->linear_backward(dy.view(), *packed, dx.view(), accumulate);
      ExpectedMatrix expected(s.rows, s.in);
      for (std::int64_t t = 0; t < s.rows; ++t) {
        for (std::int64_t i = 0; i < s.in; ++i) {
          double sum = accumulate ? testing::element_of(before.view(), t, i) : 0.0;
          double magnitude = std::abs(sum);
          for (std::int64_t o = 0; o < s.out; ++o) {
            const double product =
                testing::element_of(dy.view(), t, o) * testing::element_of(weight.view(), o, i);
            sum += product;
            magnitude += std::abs(product);
          }
          expected.set(t, i, sum, testing::sum_bound(s.out + 1, magnitude, DType::f32, sum));
        }
      }
      EXPECT_TRUE(expected.agrees_with(dx.view()))
          << s.rows << "x" << s.in << "x" << s.out << " " << accumulate;
    }
  }
}

TEST_P(Products, AccumulateAddsToWhatIsThere) {
  const auto ops = testing::make_operations(GetParam(), 1);
  const Tensor x = random_tensor(GetParam(), 9, 40, 1, 1);
  const Tensor weight = random_tensor(GetParam(), 23, 40, 1, 2);
  const Tensor bias = random_tensor(DType::f32, 1, 23, 1, 3);
  const Tensor before = random_tensor(DType::f32, 9, 23, 2, 4);
  const auto packed = ops->pack(weight.view(), bias.span<float>(), false);
  Tensor y = before.clone();
  ops->linear(x.view(), *packed, y.view(), true);
  const oracle::Real product = oracle::linear(oracle::matrix_of(x.view()), oracle::matrix_of(weight.view()));
  ExpectedMatrix expected(9, 23);
  for (std::int64_t t = 0; t < 9; ++t) {
    for (std::int64_t o = 0; o < 23; ++o) {
      const double value =
          testing::element_of(before.view(), t, o) + testing::element_of(bias.view(), 0, o) + product(t, o);
      expected.set(t, o, value, testing::sum_bound(42, 40 + 3, DType::f32, value));
    }
  }
  EXPECT_TRUE(expected.agrees_with(y.view()));
}

// The row counts cross every border at which another kernel of the library takes over: 1, vectors of 16, 32,
// the steps into which products.cpp cuts (64, 512), and beyond.
TEST_P(Products, ARowDoesNotDependOnItsBatch) {
  for (const Shape& s : {Shape{300, 70, 53}, Shape{1100, 32, 48}, Shape{70, 1100, 40}}) {
    const Tensor x = random_tensor(GetParam(), s.rows, s.in, 1, 5);
    const Tensor dy = random_tensor(GetParam(), s.rows, s.out, 1, 6);
    const Tensor weight = random_tensor(GetParam(), s.out, s.in, 1, 7);
    const Tensor bias = random_tensor(DType::f32, 1, s.out, 1, 8);
    Tensor alone(DType::f32, s.rows, s.out, "test");
    Tensor alone_added = random_tensor(DType::f32, s.rows, s.out, 1, 9);
    Tensor alone_back(DType::f32, s.rows, s.in, "test");
    const Tensor before = alone_added.clone();
    for (const int threads : {1, 2}) {
      const auto ops = testing::make_operations(GetParam(), threads);
      const auto packed = ops->pack(weight.view(), bias.span<float>(), true);
      for (std::int64_t r = 0; threads == 1 && r < s.rows; ++r) {
        ops->linear(x.view().row_range(r, 1), *packed, alone.view().row_range(r, 1));
        ops->linear(x.view().row_range(r, 1), *packed, alone_added.view().row_range(r, 1), true);
        ops->linear_backward(dy.view().row_range(r, 1), *packed, alone_back.view().row_range(r, 1));
      }
      for (const std::int64_t rows :
           {2, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 90, 96, 129, 257, 300, 511, 512, 513, 1100}) {
        if (rows > s.rows) break;
        const ConstView some = x.view().row_range(s.rows - rows, rows);
        EXPECT_TRUE(
            same_bits(linear(*ops, *packed, some).view(), alone.view().row_range(s.rows - rows, rows)))
            << rows << " rows, " << threads << " threads, " << s.in << " to " << s.out;
        Tensor added(DType::f32, rows, s.out, "test");
        ops->convert(before.view().row_range(s.rows - rows, rows), added.view());
        ops->linear(some, *packed, added.view(), true);
        EXPECT_TRUE(same_bits(added.view(), alone_added.view().row_range(s.rows - rows, rows)))
            << rows << " rows accumulated, " << threads << " threads, " << s.in << " to " << s.out;
        Tensor back(DType::f32, rows, s.in, "test");
        ops->linear_backward(dy.view().row_range(s.rows - rows, rows), *packed, back.view());
        EXPECT_TRUE(same_bits(back.view(), alone_back.view().row_range(s.rows - rows, rows)))
            << rows << " rows backward, " << threads << " threads, " << s.in << " to " << s.out;
      }
    }
  }
}

TEST_P(Products, EveryRowCountUpTo300) {
  const auto ops = testing::make_operations(GetParam(), 1);
  const Tensor x = random_tensor(GetParam(), 300, 40, 1, 10);
  const Tensor weight = random_tensor(GetParam(), 48, 40, 1, 11);
  const auto packed = ops->pack(weight.view(), {}, false);
  const Tensor whole = linear(*ops, *packed, x.view());
  for (std::int64_t rows = 1; rows < 300; ++rows) {
    ASSERT_TRUE(same_bits(linear(*ops, *packed, x.view().row_range(300 - rows, rows)).view(),
                          whole.view().row_range(300 - rows, rows)))
        << rows << " rows";
  }
}

TEST(ProductsDeathTest, ABackwardThatWasNotPackedIsAMistake) {
  const auto ops = testing::make_operations(DType::f32, 1);
  const Tensor weight = random_tensor(DType::f32, 3, 4, 1, 1);
  const auto packed = ops->pack(weight.view(), {}, false);
  const Tensor dy = random_tensor(DType::f32, 2, 3, 1, 2);
  Tensor dx(DType::f32, 2, 4, "test");
  EXPECT_DEATH(ops->linear_backward(dy.view(), *packed, dx.view()), "packed without backward");
}

}  // namespace
}  // namespace biqa
