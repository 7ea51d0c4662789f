// SPDX-License-Identifier: Apache-2.0
// Random operands for the products with an adapter's narrow factors, and their results in double with the mask of the CPU's
// counters. For the tests of kernels (ops/cuda/lora.h, ops/cuda/tile_lora.h).
#pragma once

#include <cmath>
#include <cstdint>
#include <ostream>
#include <vector>

#include "core/random.h"
#include "support/compare.h"

namespace biqa::testing {

struct LoraProductCase {
  std::int64_t rows, columns, rank;
  DType type;   ///< of x
  double rate;  ///< of dropout
};
inline std::ostream& operator<<(std::ostream& out, const LoraProductCase& c) {
  return out << c.rows << "x" << c.columns << " rank " << c.rank << " " << name_of(c.type) << " rate "
             << c.rate;
}

/// How a kernel forms a sum: how many products it adds for each term, and its error beyond rounding in f32, relative to the
/// terms' sizes (docs/numerics.md).
struct LoraSum {
  std::int64_t products = 1;
  double error = 0;
};

class LoraReference {
 public:
  explicit LoraReference(const LoraProductCase& c)
      : x(random_tensor(c.type, c.rows, c.columns, 2, 1)),
        a(random_tensor(DType::f32, c.rank, c.columns, 1, 2)),
        g(random_tensor(DType::f32, c.rows, c.rank, 1, 3)),
        y(random_tensor(DType::f32, c.rows, c.columns, 1, 4)),
        c_(c) {
    for (std::int64_t r = 0; r < c.rows; ++r) keys.push_back(mix64(static_cast<std::uint64_t>(r) + 7));
  }

  static constexpr std::uint64_t kKey = 99, kProjection = 2;
  static constexpr float kScale = 1.7F;
  Tensor x, a, g, y;
  std::vector<std::uint64_t> keys;  ///< of the rows, for the mask

  /// What outer() adds to.
  Tensor target(bool transposed) const {
    return random_tensor(DType::f32, transposed ? c_.columns : c_.rank, transposed ? c_.rank : c_.columns, 1,
                         5);
  }

  ExpectedMatrix reduce(LoraSum how = {}) const {
    ExpectedMatrix expected(c_.rows, c_.rank);
    for (std::int64_t t = 0; t < c_.rows; ++t) {
      for (std::int64_t r = 0; r < c_.rank; ++r) {
        Sum sum;
        for (std::int64_t i = 0; i < c_.columns; ++i)
          sum.add(factor(t, i) * element_of(x.view(), t, i) * element_of(a.view(), r, i));
        // The mask's factor is one more rounding.
        expected.set(t, r, sum.value,
                     sum_bound(how.products * c_.columns, sum.magnitude, DType::f32, sum.value) +
                         (how.error + kUnit) * sum.magnitude);
      }
    }
    return expected;
  }
  ExpectedMatrix expand(LoraSum how = {}) const {
    ExpectedMatrix expected(c_.rows, c_.columns);
    for (std::int64_t t = 0; t < c_.rows; ++t) {
      for (std::int64_t i = 0; i < c_.columns; ++i) {
        Sum sum;
        for (std::int64_t r = 0; r < c_.rank; ++r)
          sum.add(element_of(g.view(), t, r) * element_of(a.view(), r, i));
        const double weight = factor(t, i) * static_cast<double>(kScale);
        set_scaled(expected, t, i, element_of(y.view(), t, i), weight, sum, how.products * c_.rank,
                   how.error);
      }
    }
    return expected;
  }
  ExpectedMatrix outer(bool transposed, LoraSum how = {}) const {
    const Tensor before = target(transposed);
    ExpectedMatrix expected(before.rows(), before.columns());
    for (std::int64_t r = 0; r < c_.rank; ++r) {
      for (std::int64_t i = 0; i < c_.columns; ++i) {
        Sum sum;
        for (std::int64_t t = 0; t < c_.rows; ++t)
          sum.add(element_of(g.view(), t, r) * factor(t, i) * element_of(x.view(), t, i));
        const std::int64_t row = transposed ? i : r;
        const std::int64_t column = transposed ? r : i;
        set_scaled(expected, row, column, element_of(before.view(), row, column), static_cast<double>(kScale),
                   sum, how.products * c_.rows, how.error);
      }
    }
    return expected;
  }

 private:
  static constexpr double kUnit = 0x1.0p-24;
  struct Sum {
    double value = 0, magnitude = 0;
    void add(double term) {
      value += term;
      magnitude += std::abs(term);
    }
  };
  /// before + weight · sum. Scale and mask are one rounding each; the last sum rounds its own value.
  static void set_scaled(ExpectedMatrix& expected, std::int64_t row, std::int64_t column, double before,
                         double weight, const Sum& sum, std::int64_t products, double error) {
    const double value = before + weight * sum.value;
    const double bound =
        weight * (sum_bound(products, sum.magnitude, DType::f32, 0) + (error + 2 * kUnit) * sum.magnitude);
    expected.set(row, column, value, bound + kUnit * std::abs(value));
  }
  double factor(std::int64_t row, std::int64_t column) const {
    if (c_.rate == 0) return 1;
    const RandomStream stream{kKey, kProjection, keys[static_cast<std::size_t>(row)]};
    const Words<4> words = stream.bits(static_cast<std::uint64_t>(column / 4));
    const double uniform = words[static_cast<std::size_t>(column % 4)] * 0x1.0p-32;
    return uniform < c_.rate ? 0 : static_cast<double>(static_cast<float>(1 / (1 - c_.rate)));
  }

  LoraProductCase c_;
};

}  // namespace biqa::testing
