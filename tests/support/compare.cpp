// SPDX-License-Identifier: Apache-2.0
#include "support/compare.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <string>

#include "core/random.h"

namespace biqa::testing {

ExpectedMatrix::ExpectedMatrix(std::int64_t rows, std::int64_t columns)
    : rows_(rows), columns_(columns), elements_(static_cast<std::size_t>(rows * columns)) {}

void ExpectedMatrix::set(std::int64_t row, std::int64_t column, double value, double bound) {
  CHECK(row >= 0 && row < rows_ && column >= 0 && column < columns_) << row << ", " << column;
  CHECK(std::isfinite(value) && std::isfinite(bound) && bound >= 0) << value << " with bound " << bound;
  elements_[static_cast<std::size_t>(row * columns_ + column)] = {value, bound};
}

::testing::AssertionResult ExpectedMatrix::agrees_with(ConstView result) const {
  if (result.rows() != rows_ || result.columns() != columns_) {
    return ::testing::AssertionFailure()
           << fmt::format("shape {}x{} instead of {}x{}", result.rows(), result.columns(), rows_, columns_);
  }
  bool compared = false;
  double worst = 0;
  std::string found;
  for (std::int64_t r = 0; r < rows_; ++r) {
    for (std::int64_t c = 0; c < columns_; ++c) {
      const Element& expected = elements_[static_cast<std::size_t>(r * columns_ + c)];
      if (expected.bound < 0) continue;
      compared = true;
      const double value = element_of(result, r, c);
      const double difference = std::abs(value - expected.value);
      if (difference <= expected.bound) continue;
      const double excess = std::isfinite(difference) ? difference - expected.bound : HUGE_VAL;
      if (!found.empty() && excess <= worst) continue;
      worst = excess;
      found = fmt::format("row {} column {}: {} instead of {}, allowed difference {}", r, c, value,
                          expected.value, expected.bound);
    }
  }
  if (!compared) return ::testing::AssertionFailure() << "nothing to compare";
  if (found.empty()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << found;
}

::testing::AssertionResult same_bits(ConstView a, ConstView b) {
  if (a.rows() != b.rows() || a.columns() != b.columns() || a.type() != b.type()) {
    return ::testing::AssertionFailure()
           << fmt::format("{}x{} {} and {}x{} {}", a.rows(), a.columns(), name_of(a.type()), b.rows(),
                          b.columns(), name_of(b.type()));
  }
  const std::size_t size = size_of(a.type());
  for (std::int64_t r = 0; r < a.rows(); ++r) {
    for (std::int64_t c = 0; c < a.columns(); ++c) {
      const ConstView x = a.row_range(r, 1).column_range(c, 1);
      const ConstView y = b.row_range(r, 1).column_range(c, 1);
      if (std::memcmp(x.data(), y.data(), size) == 0) continue;
      return ::testing::AssertionFailure()
             << fmt::format("row {} column {}: {} and {}", r, c, element_of(a, r, c), element_of(b, r, c));
    }
  }
  return ::testing::AssertionSuccess();
}

double element_of(ConstView matrix, std::int64_t row, std::int64_t column) {
  if (matrix.type() == DType::bf16) return to_float(matrix.row<Bf16>(row)[column]);
  return matrix.row<float>(row)[column];
}

Tensor random_tensor(DType type, std::int64_t rows, std::int64_t columns, double size, std::uint64_t seed) {
  Tensor tensor(type, rows, columns, "test input");
  const RandomStream stream{seed};
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const auto value = static_cast<float>(size * (2 * stream.uniform(static_cast<std::uint64_t>(i)) - 1));
    const auto at = static_cast<std::size_t>(i);
    if (type == DType::bf16)
      tensor.span<Bf16>()[at] = to_bf16(value);
    else
      tensor.span<float>()[at] = value;
  }
  return tensor;
}

double relative_bound(std::int64_t terms) {
  return sum_bound(terms, 1.0, DType::f32, 0.0);
}

}  // namespace biqa::testing
