// SPDX-License-Identifier: Apache-2.0
// Holds results against expectations that carry their own bounds; a bound is computed where the expectation is, from
// the lengths of the sums, the types and the magnitudes summed (sum_bound of op_cases.h), never guessed.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "support/op_cases.h"
#include "tensor/tensor.h"

namespace biqa::testing {

/// What a matrix should hold: values in double and how far from each a result may be. Elements that were
/// never set are not compared.
class ExpectedMatrix {
 public:
  ExpectedMatrix(std::int64_t rows, std::int64_t columns);
  void set(std::int64_t row, std::int64_t column, double value, double bound);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  /// Succeeds when `result` has this shape, something is compared and nothing is out of bounds; else names
  /// the element furthest out. A NaN or an infinity in a result is out of every bound.
  ::testing::AssertionResult agrees_with(ConstView result) const;

 private:
  struct Element {
    double value = 0, bound = -1;  // bound < 0: not compared
  };
  std::int64_t rows_, columns_;
  std::vector<Element> elements_;
};

/// The same shape, type and bits.
::testing::AssertionResult same_bits(ConstView a, ConstView b);

/// The element as a double; f32 or bf16.
double element_of(ConstView matrix, std::int64_t row, std::int64_t column);

/// Uniform in [-size, size), rounded to `type`; a function of the seed, the place and the shape's columns.
Tensor random_tensor(DType type, std::int64_t rows, std::int64_t columns, double size, std::uint64_t seed);

/// Relative error of a chain of f32 operations whose longest sum has `terms` terms of one sign.
double relative_bound(std::int64_t terms);

}  // namespace biqa::testing
