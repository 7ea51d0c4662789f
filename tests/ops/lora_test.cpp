// SPDX-License-Identifier: Apache-2.0
// The adapter's part of a projection, forward and backward, with and without dropout, against the formula.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

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
using testing::LoraCase;
using testing::LoraPart;
using testing::random_tensor;
using testing::relative_bound;
using testing::same_bits;

constexpr double kUnit = 0x1.0p-24;

/// Everything about one case, with the adapter's factors random.
struct Setting {
  explicit Setting(const LoraCase& c) : x(random_tensor(c.type, c.rows, c.in, 2, c.seed)) {
    std::vector<LoraFactors> factors;
    for (std::size_t p = 0; p < c.parts.size(); ++p) {
      const LoraPart& part = c.parts[p];
      a.push_back(random_tensor(DType::f32, part.rank, c.in, 1, c.seed + 9 + p));
      b.push_back(random_tensor(DType::f32, part.out, part.rank, 1, c.seed + 19 + p));
      factors.push_back(
          {a[p].row<float>(0), b[p].row<float>(0), part.rank, part.out, part.offset, part.scale});
    }
    for (std::int64_t r = 0; r < c.rows; ++r) keys.push_back(mix64(static_cast<std::uint64_t>(r)));
    dropout = {c.rate, 99, keys};
    const auto operations = testing::make_operations(c.type, 1);
    packed = operations->pack_lora(c.in, factors);
    error = operations->lora_error();
    for (std::size_t p = 0; p < c.parts.size(); ++p) masks.push_back(mask_of(c, p));
  }
  const Dropout* dropout_of(const LoraCase& c) const { return c.rate > 0 ? &dropout : nullptr; }

  /// Element (row, column) of projection p is kept iff the uniform draw of (key, p, token, column) is not
  /// below the rate; four columns share one Philox block.
  Real mask_of(const LoraCase& c, std::size_t p) const {
    Real mask(c.rows, c.in);
    for (std::int64_t r = 0; r < c.rows; ++r) {
      const RandomStream stream{dropout.key, p, keys[static_cast<std::size_t>(r)]};
      for (std::int64_t i = 0; i < c.in; ++i) {
        const double uniform =
            stream.bits(static_cast<std::uint64_t>(i / 4))[static_cast<std::size_t>(i % 4)] * 0x1.0p-32;
        mask(r, i) = uniform < c.rate ? 0.0 : 1 / (1 - c.rate);
      }
    }
    return mask;
  }

  Tensor x;
  std::vector<Tensor> a, b;
  std::vector<std::uint64_t> keys;
  Dropout dropout;
  std::vector<Real> masks;
  std::unique_ptr<PackedLora> packed;
  double error = 0;  // of the operations, relative
};

Real absolute(Real x) {
  for (double& value : x.values) value = std::abs(value);
  return x;
}

class LoraOp : public ::testing::TestWithParam<LoraCase> {};
class LoraOpBatch : public ::testing::TestWithParam<LoraCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, LoraOp, ::testing::ValuesIn(testing::lora_cases()));
INSTANTIATE_TEST_SUITE_P(Cases, LoraOpBatch, ::testing::ValuesIn(testing::lora_batch_cases()));

TEST_P(LoraOp, ForwardAgreesWithTheFormula) {
  const LoraCase& c = GetParam();
  const Setting s(c);
  const Tensor before = random_tensor(DType::f32, c.rows, c.total_out, 2, c.seed + 1);
  Tensor u(DType::f32, c.rows, s.packed->rank, "test");
  Tensor y = before.clone();
  testing::make_operations(c.type, 2)->lora(s.x.view(), *s.packed, s.dropout_of(c), u.view(), y.view());
  const Real x = matrix_of(s.x.view());
  const Real start = matrix_of(before.view());
  ExpectedMatrix expected(c.rows, c.total_out);
  for (std::int64_t t = 0; t < c.rows; ++t) {  // columns that no part owns stay as they were
    for (std::int64_t o = 0; o < c.total_out; ++o) expected.set(t, o, start(t, o), 0);
  }
  for (std::size_t p = 0; p < c.parts.size(); ++p) {
    const LoraPart& part = c.parts[p];
    const Real a = matrix_of(s.a[p].view());
    const Real b = matrix_of(s.b[p].view());
    const Real delta = oracle::lora(x, a, b, s.masks[p], part.scale);
    const Real magnitude = oracle::lora(absolute(x), absolute(a), absolute(b), s.masks[p], part.scale);
    for (std::int64_t t = 0; t < c.rows; ++t) {
      for (std::int64_t o = 0; o < part.out; ++o) {
        const double value = start(t, part.offset + o) + delta(t, o);
        expected.set(
            t, part.offset + o, value,
            (relative_bound(c.in) + relative_bound(part.rank) + 3 * kUnit + s.error) * magnitude(t, o) +
                kUnit * std::abs(value));
      }
    }
  }
  EXPECT_TRUE(expected.agrees_with(y.view()));
}

TEST_P(LoraOp, BackwardIsTheDerivative) {
  const LoraCase& c = GetParam();
  const Setting s(c);
  const Tensor dy = random_tensor(c.type, c.rows, c.total_out, 1, c.seed + 2);
  const Tensor before = random_tensor(DType::f32, c.rows, c.in, 1, c.seed + 3);
  Tensor u(DType::f32, c.rows, s.packed->rank, "test");
  Tensor y(DType::f32, c.rows, c.total_out, "test");
  y.zero();
  testing::make_operations(c.type, 1)->lora(s.x.view(), *s.packed, s.dropout_of(c), u.view(), y.view());

  const Real x = matrix_of(s.x.view());
  std::vector<Real> a, b, d_part;
  for (std::size_t p = 0; p < c.parts.size(); ++p) {
    a.push_back(matrix_of(s.a[p].view()));
    b.push_back(matrix_of(s.b[p].view()));
    d_part.push_back(matrix_of(dy.view().column_range(c.parts[p].offset, c.parts[p].out)));
  }
  const auto loss = [&](std::size_t p, const Complex& z, const Complex& down, const Complex& up) {
    return oracle::contract(d_part[p], oracle::lora(z, down, up, s.masks[p], c.parts[p].scale));
  };
  // All terms of one sign give the magnitudes: the loss is linear in each of its factors.
  const auto size = [&](std::size_t p, const Complex& z, const Complex& down, const Complex& up) {
    return oracle::contract(absolute(d_part[p]), oracle::lora(z, down, up, s.masks[p], c.parts[p].scale));
  };
  const auto complex_size = [](const Real& m) { return oracle::complex_of(absolute(m)); };

  // An element costs the oracle a whole forward, so of large cases only some are checked.
  const std::size_t stride = c.rows > 30 ? 29 : c.rows > 1 ? 3 : 1;
  const auto add_expected = [&](const Real& start, const Real& g, const Real& magnitude, const LoraPart& part,
                                ExpectedMatrix& expected) {
    const double relative = relative_bound(c.in) + relative_bound(part.rank) + relative_bound(part.out) +
                            relative_bound(c.rows) + 8 * kUnit + s.error;
    for (std::size_t i = 0; i < g.values.size(); i += stride) {
      const auto at = static_cast<std::int64_t>(i);
      const double value = start.values[i] + g.values[i];
      expected.set(at / g.columns, at % g.columns, value,
                   relative * magnitude.values[i] + 2 * kUnit * std::abs(value));
    }
  };
  std::vector<ExpectedMatrix> a_expected, b_expected;
  ExpectedMatrix x_expected(c.rows, c.in);
  Real x_gradient(c.rows, c.in);
  Real x_magnitude(c.rows, c.in);
  for (std::size_t p = 0; p < c.parts.size(); ++p) {
    const LoraPart& part = c.parts[p];
    const Complex z = oracle::complex_of(x);
    const Complex down = oracle::complex_of(a[p]);
    const Complex up = oracle::complex_of(b[p]);
    const Complex z_size = complex_size(x);
    const Complex down_size = complex_size(a[p]);
    const Complex up_size = complex_size(b[p]);
    const Tensor start_a = random_tensor(DType::f32, part.rank, c.in, 0.5, c.seed + 4);
    const Tensor start_b = random_tensor(DType::f32, part.out, part.rank, 0.5, c.seed + 5);
    add_expected(matrix_of(start_a.view()),
                 oracle::gradient(
                     a[p], [&](const Complex& w) { return loss(p, z, w, up); }, stride),
                 oracle::gradient(
                     a[p], [&](const Complex& w) { return size(p, z_size, w, up_size); }, stride),
                 part, a_expected.emplace_back(part.rank, c.in));
    add_expected(matrix_of(start_b.view()),
                 oracle::gradient(
                     b[p], [&](const Complex& w) { return loss(p, z, down, w); }, stride),
                 oracle::gradient(
                     b[p], [&](const Complex& w) { return size(p, z_size, down_size, w); }, stride),
                 part, b_expected.emplace_back(part.out, part.rank));
    const Real g = oracle::gradient(
        x, [&](const Complex& w) { return loss(p, w, down, up); }, stride);
    const Real m = oracle::gradient(
        x, [&](const Complex& w) { return size(p, w, down_size, up_size); }, stride);
    for (std::size_t i = 0; i < g.values.size(); ++i) {
      x_gradient.values[i] += g.values[i];
      x_magnitude.values[i] += m.values[i];
    }
  }
  add_expected(matrix_of(before.view()), x_gradient, x_magnitude, {32, 32, 0, 0}, x_expected);

  struct Results {
    Tensor x;
    std::vector<Tensor> a, b;
  };
  const auto run = [&](int threads, bool with_input) {
    Results results{before.clone(), {}, {}};
    std::vector<LoraGradients> gradients;
    for (const LoraPart& part : c.parts) {
      results.a.push_back(random_tensor(DType::f32, part.rank, c.in, 0.5, c.seed + 4));
      results.b.push_back(random_tensor(DType::f32, part.out, part.rank, 0.5, c.seed + 5));
      gradients.push_back({results.a.back().row<float>(0), results.b.back().row<float>(0)});
    }
    testing::make_operations(c.type, threads)
        ->lora_backward(s.x.view(), u.view(), dy.view(), *s.packed, s.dropout_of(c),
                        with_input ? results.x.view() : View{}, gradients);
    return results;
  };
  const Results results = run(1, true);
  EXPECT_TRUE(x_expected.agrees_with(results.x.view()));
  const Results threaded = run(2, true);
  EXPECT_TRUE(same_bits(results.x.view(), threaded.x.view()));
  const Results without = run(1, false);
  EXPECT_TRUE(same_bits(without.x.view(), before.view()));
  for (std::size_t p = 0; p < c.parts.size(); ++p) {
    EXPECT_TRUE(a_expected[p].agrees_with(results.a[p].view())) << "A of part " << p;
    EXPECT_TRUE(b_expected[p].agrees_with(results.b[p].view())) << "B of part " << p;
    EXPECT_TRUE(same_bits(threaded.a[p].view(), results.a[p].view()) &&
                same_bits(threaded.b[p].view(), results.b[p].view()));
    EXPECT_TRUE(same_bits(without.a[p].view(), results.a[p].view()) &&
                same_bits(without.b[p].view(), results.b[p].view()));
  }
}

TEST_P(LoraOpBatch, ARowDoesNotDependOnItsBatchOrTheThreads) {
  const LoraCase& c = GetParam();
  const Setting s(c);
  Tensor alone_u(DType::f32, c.rows, s.packed->rank, "test");
  Tensor alone(DType::f32, c.rows, c.total_out, "test");
  alone.zero();
  const auto single = testing::make_operations(c.type, 1);
  for (std::int64_t r = 0; r < c.rows; ++r) {
    Dropout one = s.dropout;
    one.token_keys = one.token_keys.subspan(static_cast<std::size_t>(r), 1);
    single->lora(s.x.view().row_range(r, 1), *s.packed, c.rate > 0 ? &one : nullptr,
                 alone_u.view().row_range(r, 1), alone.view().row_range(r, 1));
  }
  for (const int threads : {1, 2}) {
    const auto ops = testing::make_operations(c.type, threads);
    for (const std::int64_t rows : c.batches) {
      const std::int64_t first = c.rows - rows;
      Tensor u(DType::f32, rows, s.packed->rank, "test");
      Tensor y(DType::f32, rows, c.total_out, "test");
      y.zero();
      Dropout some = s.dropout;
      some.token_keys = some.token_keys.subspan(static_cast<std::size_t>(first));
      ops->lora(s.x.view().row_range(first, rows), *s.packed, c.rate > 0 ? &some : nullptr, u.view(),
                y.view());
      EXPECT_TRUE(same_bits(u.view(), alone_u.view().row_range(first, rows))) << rows << " " << threads;
      EXPECT_TRUE(same_bits(y.view(), alone.view().row_range(first, rows))) << rows << " " << threads;
    }
  }
}

// The share of dropped elements is the rate, within five standard deviations.
TEST_P(LoraOpBatch, DropoutDropsTheRate) {
  const LoraCase& c = GetParam();
  const Setting s(c);
  const auto draws = static_cast<double>(c.rows * c.in);
  const auto dropped = std::count(s.masks[0].values.begin(), s.masks[0].values.end(), 0.0);
  EXPECT_NEAR(static_cast<double>(dropped), draws * c.rate, 5 * std::sqrt(draws * c.rate * (1 - c.rate)));
}

}  // namespace
}  // namespace biqa
