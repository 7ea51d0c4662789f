// SPDX-License-Identifier: Apache-2.0
#include "support/op_cases.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/random.h"

namespace biqa::testing {
namespace {

constexpr unsigned char kGuardByte = 0xa5;

/// Uniform in [-2, 2), rounded to `type`; about one element in eight is exactly zero.
Tensor random_matrix(DType type, std::int64_t rows, std::int64_t columns, std::uint64_t seed,
                     std::uint64_t which) {
  Tensor matrix(type, rows, columns, "test input");
  const RandomStream stream{seed, which};
  for (std::int64_t i = 0; i < matrix.size(); ++i) {
    const double draw = stream.uniform(static_cast<std::uint64_t>(i));
    const auto value = static_cast<float>(draw < 0.125 ? 0.0 : 4.0 * draw - 2.0);
    if (type == DType::bf16)
      matrix.span<Bf16>()[static_cast<std::size_t>(i)] = to_bf16(value);
    else
      matrix.span<float>()[static_cast<std::size_t>(i)] = value;
  }
  return matrix;
}

double element(ConstView matrix, std::int64_t row, std::int64_t column) {
  if (matrix.type() == DType::bf16) return to_float(matrix.row<Bf16>(row)[column]);
  return matrix.row<float>(row)[column];
}

/// Fails the test once, at the worst element, if any |result − expected| exceeds its bound. A NaN exceeds every bound.
class Comparison {
 public:
  void add(std::int64_t row, std::int64_t column, double result, double expected, double bound) {
    const double excess = std::abs(result - expected) - bound;
    if (excess <= 0 || (!failed_.empty() && excess <= worst_)) return;
    worst_ = std::isnan(excess) ? HUGE_VAL : excess;
    failed_ = fmt::format("row {} column {}: {} instead of {}, allowed difference {}", row, column, result,
                          expected, bound);
  }
  void expect_none(const char* reference) const { EXPECT_EQ(failed_, "") << "against " << reference; }

 private:
  double worst_ = 0;
  std::string failed_;
};

struct Expected {
  double value, bound;
};

/// Compares the outputs of `run` and, if given, `other` with expect(row, column) and with each other.
template <typename Expect, typename Call, typename Run>
void check_both(DType type, std::int64_t rows, std::int64_t columns, const Expect& expect, const Call& call,
                const Run& run, const Run& other) {
  GuardedOutput y(type, rows, columns);
  GuardedOutput y_other(type, rows, columns);
  call(run, y.view());
  EXPECT_EQ(y.damaged(), 0) << "elements written outside the output";
  if (other) call(other, y_other.view());
  Comparison with_formula;
  Comparison with_other;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < columns; ++i) {
      const Expected expected = expect(r, i);
      const double result = element(y.view(), r, i);
      with_formula.add(r, i, result, expected.value, expected.bound);
      if (other) with_other.add(r, i, result, element(y_other.view(), r, i), 2 * expected.bound);
    }
  }
  with_formula.expect_none("the formula");
  if (other) with_other.expect_none("the other implementation");
}

}  // namespace

double roundoff(DType type) {
  CHECK(type == DType::f32 || type == DType::bf16) << name_of(type);
  return type == DType::f32 ? 0x1.0p-24 : 0x1.0p-8;
}

double sum_bound(std::int64_t terms, double magnitude, DType output, double y) {
  const auto n = static_cast<double>(terms);
  return (std::min(n, 8.0 * std::sqrt(n)) + 2.0) * roundoff(DType::f32) * magnitude +
         roundoff(output) * std::abs(y);
}

double rms_norm_bound(std::int64_t columns, DType output) {
  return 0.5 * sum_bound(columns, 1.0, DType::f32, 0.0) + 5.0 * roundoff(DType::f32) + roundoff(output);
}

void check_rms_norm(const RmsNormCase& c, const RunRmsNorm& run, const RunRmsNorm& other) {
  const Tensor x = random_matrix(DType::f32, c.rows, c.columns, c.seed, 0);
  const Tensor weight = random_matrix(DType::f32, 1, c.columns, c.seed, 1);
  std::vector<double> scales(static_cast<std::size_t>(c.rows));
  for (std::int64_t r = 0; r < c.rows; ++r) {
    double squares = 0;
    for (std::int64_t i = 0; i < c.columns; ++i) squares += element(x.view(), r, i) * element(x.view(), r, i);
    scales[static_cast<std::size_t>(r)] =
        1.0 / std::sqrt(squares / static_cast<double>(c.columns) + c.epsilon);
  }
  const double relative = rms_norm_bound(c.columns, c.output);
  const auto expect = [&](std::int64_t r, std::int64_t i) {
    const double y =
        element(x.view(), r, i) * scales[static_cast<std::size_t>(r)] * element(weight.view(), 0, i);
    return Expected{y, relative * std::abs(y)};
  };
  const auto call = [&](const RunRmsNorm& one, View y) { one(x.view(), weight.view(), c.epsilon, y); };
  check_both(c.output, c.rows, c.columns, expect, call, run, other);
}

void check_linear(const LinearCase& c, const RunLinear& run, const RunLinear& other) {
  const Tensor x = random_matrix(c.input, c.tokens, c.in, c.seed, 0);
  const Tensor weight = random_matrix(c.input, c.out, c.in, c.seed, 1);
  const Tensor bias = random_matrix(c.output, 1, c.bias ? c.out : 0, c.seed, 2);
  const auto expect = [&](std::int64_t t, std::int64_t o) {
    double y = c.bias ? element(bias.view(), 0, o) : 0.0;
    double magnitude = std::abs(y);
    for (std::int64_t i = 0; i < c.in; ++i) {
      const double product = element(x.view(), t, i) * element(weight.view(), o, i);
      y += product;
      magnitude += std::abs(product);
    }
    return Expected{y, sum_bound(c.in, magnitude, c.output, y)};
  };
  const auto call = [&](const RunLinear& one, View y) { one(x.view(), weight.view(), bias.view(), y); };
  check_both(c.output, c.tokens, c.out, expect, call, run, other);
}

GuardedOutput::GuardedOutput(DType type, std::int64_t rows, std::int64_t columns)
    : rows_(rows), columns_(columns), whole_(type, rows + 2, columns + 2 * kMargin, "guarded output") {
  std::memset(whole_.view().data(), kGuardByte, whole_.bytes());
}

std::int64_t GuardedOutput::damaged() const {
  const auto* bytes = static_cast<const unsigned char*>(whole_.view().data());
  const auto size = static_cast<std::int64_t>(size_of(whole_.type()));
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < whole_.size(); ++i) {
    const std::int64_t row = i / whole_.columns();
    const std::int64_t column = i % whole_.columns();
    if (row >= 1 && row <= rows_ && column >= kMargin && column < kMargin + columns_) continue;
    count += std::any_of(bytes + i * size, bytes + (i + 1) * size,
                         [](unsigned char b) { return b != kGuardByte; });
  }
  return count;
}

}  // namespace biqa::testing
