// SPDX-License-Identifier: Apache-2.0
// Compares results with expectations that have their own bounds. A bound is computed together with its expectation from
// the lengths of the sums, the types and the magnitudes summed (sum_bound in op_cases.h). It is never guessed.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "support/op_cases.h"
#include "tensor/tensor.h"

namespace biqa::testing {

/// Expected values of a matrix in double, each with a bound for the difference. Elements that were never set are not
/// compared.
class ExpectedMatrix {
 public:
  ExpectedMatrix(std::int64_t rows, std::int64_t columns);
  void set(std::int64_t row, std::int64_t column, double value, double bound);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  /// Succeeds if `result` has this shape, at least one element is compared and all are within bounds. Otherwise names
  /// the element that exceeds its bound most. A NaN or an infinity in a result exceeds every bound.
  ::testing::AssertionResult agrees_with(ConstView result) const;

 private:
  struct Element {
    double value = 0, bound = -1;  // bound < 0: not compared
  };
  std::int64_t rows_, columns_;
  std::vector<Element> elements_;
};

/// Whether shape, type and bits are equal.
::testing::AssertionResult same_bits(ConstView a, ConstView b);

/// The element as a double; f32 or bf16.
double element_of(ConstView matrix, std::int64_t row, std::int64_t column);

/// Uniform in [-size, size), rounded to `type`. Depends on the seed, the element's place and the number of columns.
Tensor random_tensor(DType type, std::int64_t rows, std::int64_t columns, double size, std::uint64_t seed);

/// Relative error of a chain of f32 operations whose longest sum has `terms` terms of one sign.
double relative_bound(std::int64_t terms);

}  // namespace biqa::testing
