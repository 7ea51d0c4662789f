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

Tensor linear(testing::Operations& ops, const FrozenLinear& packed, ConstView x) {
  Tensor y(DType::f32, x.rows(), packed.out, "test");
  ops.linear(x, packed, y.view());
  return y;
}

class LinearBackward : public ::testing::TestWithParam<testing::LinearBackwardCase> {};
class LinearAccumulate : public ::testing::TestWithParam<testing::LinearBackwardCase> {};
class LinearBatch : public ::testing::TestWithParam<testing::LinearBatchCase> {};
class LinearEveryBatch : public ::testing::TestWithParam<testing::LinearBatchCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, LinearBackward, ::testing::ValuesIn(testing::linear_backward_cases()));
INSTANTIATE_TEST_SUITE_P(Cases, LinearAccumulate, ::testing::ValuesIn(testing::linear_accumulate_cases()));
INSTANTIATE_TEST_SUITE_P(Cases, LinearBatch, ::testing::ValuesIn(testing::linear_batch_cases()));
INSTANTIATE_TEST_SUITE_P(Cases, LinearEveryBatch, ::testing::ValuesIn(testing::linear_every_batch_cases()));

TEST_P(LinearBackward, AgreesWithTheFormulaAndAccumulates) {
  const testing::LinearBackwardCase& c = GetParam();
  const auto ops = testing::make_operations(c.type, 2);
  const Tensor dy = random_tensor(c.type, c.tokens, c.out, 2, c.seed);
  const Tensor weight = random_tensor(c.type, c.out, c.in, 2, c.seed + 1);
  const Tensor before = random_tensor(DType::f32, c.tokens, c.in, 2, c.seed + 2);
  const auto packed = ops->pack(weight.view(), {}, true);
  for (const bool accumulate : {false, true}) {
    Tensor dx = before.clone();
    ops->linear_backward(dy.view(), *packed, dx.view(), accumulate);
    ExpectedMatrix expected(c.tokens, c.in);
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      for (std::int64_t i = 0; i < c.in; ++i) {
        double sum = accumulate ? testing::element_of(before.view(), t, i) : 0.0;
        double magnitude = std::abs(sum);
        for (std::int64_t o = 0; o < c.out; ++o) {
          const double product =
              testing::element_of(dy.view(), t, o) * testing::element_of(weight.view(), o, i);
          sum += product;
          magnitude += std::abs(product);
        }
        expected.set(t, i, sum, testing::sum_bound(c.out + 1, magnitude, DType::f32, sum));
      }
    }
    EXPECT_TRUE(expected.agrees_with(dx.view())) << accumulate;
  }
}

TEST_P(LinearAccumulate, AddsToWhatIsThere) {
  const testing::LinearBackwardCase& c = GetParam();
  const auto ops = testing::make_operations(c.type, 1);
  const Tensor x = random_tensor(c.type, c.tokens, c.in, 1, c.seed);
  const Tensor weight = random_tensor(c.type, c.out, c.in, 1, c.seed + 1);
  const Tensor bias = random_tensor(DType::f32, 1, c.out, 1, c.seed + 2);
  const Tensor before = random_tensor(DType::f32, c.tokens, c.out, 2, c.seed + 3);
  const auto packed = ops->pack(weight.view(), bias.span<float>(), false);
  Tensor y = before.clone();
  ops->linear(x.view(), *packed, y.view(), true);
  const oracle::Real product = oracle::linear(oracle::matrix_of(x.view()), oracle::matrix_of(weight.view()));
  ExpectedMatrix expected(c.tokens, c.out);
  // Products of numbers below 1, a bias below 1 and an output below 2 before.
  const double magnitude = static_cast<double>(c.in) + 3;
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    for (std::int64_t o = 0; o < c.out; ++o) {
      const double value =
          testing::element_of(before.view(), t, o) + testing::element_of(bias.view(), 0, o) + product(t, o);
      expected.set(t, o, value, testing::sum_bound(c.in + 2, magnitude, DType::f32, value));
    }
  }
  EXPECT_TRUE(expected.agrees_with(y.view()));
}

TEST_P(LinearBatch, ARowDoesNotDependOnItsBatch) {
  const testing::LinearBatchCase& c = GetParam();
  const Tensor x = random_tensor(c.type, c.tokens, c.in, 1, c.seed);
  const Tensor dy = random_tensor(c.type, c.tokens, c.out, 1, c.seed + 1);
  const Tensor weight = random_tensor(c.type, c.out, c.in, 1, c.seed + 2);
  const Tensor bias = random_tensor(DType::f32, 1, c.out, 1, c.seed + 3);
  Tensor alone(DType::f32, c.tokens, c.out, "test");
  Tensor alone_added = random_tensor(DType::f32, c.tokens, c.out, 1, c.seed + 4);
  Tensor alone_back(DType::f32, c.tokens, c.in, "test");
  const Tensor before = alone_added.clone();
  for (const int threads : {1, 2}) {
    const auto ops = testing::make_operations(c.type, threads);
    const auto packed = ops->pack(weight.view(), bias.span<float>(), true);
    for (std::int64_t r = 0; threads == 1 && r < c.tokens; ++r) {
      ops->linear(x.view().row_range(r, 1), *packed, alone.view().row_range(r, 1));
      ops->linear(x.view().row_range(r, 1), *packed, alone_added.view().row_range(r, 1), true);
      ops->linear_backward(dy.view().row_range(r, 1), *packed, alone_back.view().row_range(r, 1));
    }
    for (const std::int64_t rows : c.batches) {
      const std::int64_t first = c.tokens - rows;
      const ConstView some = x.view().row_range(first, rows);
      EXPECT_TRUE(same_bits(linear(*ops, *packed, some).view(), alone.view().row_range(first, rows)))
          << rows << " rows, " << threads << " threads";
      Tensor added(DType::f32, rows, c.out, "test");
      ops->convert(before.view().row_range(first, rows), added.view());
      ops->linear(some, *packed, added.view(), true);
      EXPECT_TRUE(same_bits(added.view(), alone_added.view().row_range(first, rows)))
          << rows << " rows accumulated, " << threads << " threads";
      Tensor back(DType::f32, rows, c.in, "test");
      ops->linear_backward(dy.view().row_range(first, rows), *packed, back.view());
      EXPECT_TRUE(same_bits(back.view(), alone_back.view().row_range(first, rows)))
          << rows << " rows backward, " << threads << " threads";
    }
  }
}

TEST_P(LinearEveryBatch, EveryRowCount) {
  const testing::LinearBatchCase& c = GetParam();
  const auto ops = testing::make_operations(c.type, 1);
  const Tensor x = random_tensor(c.type, c.tokens, c.in, 1, c.seed);
  const Tensor weight = random_tensor(c.type, c.out, c.in, 1, c.seed + 1);
  const auto packed = ops->pack(weight.view(), {}, false);
  const Tensor whole = linear(*ops, *packed, x.view());
  for (std::int64_t rows = 1; rows < c.tokens; ++rows) {
    ASSERT_TRUE(same_bits(linear(*ops, *packed, x.view().row_range(c.tokens - rows, rows)).view(),
                          whole.view().row_range(c.tokens - rows, rows)))
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
