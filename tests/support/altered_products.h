// SPDX-License-Identifier: Apache-2.0
// Products of the CPU backend with wrong bits, as of a library that the checks must refuse.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "ops/cpu/products.h"

namespace biqa::testing {

/// While it lives, matrices are made whose products have another last bit in their first column if
/// `altered(rows, threads)`. Such matrices may live longer.
class AlteredProducts {
 public:
  using Condition = std::function<bool(std::int64_t rows, int threads)>;

  explicit AlteredProducts(const Condition& altered) {
    cpu::set_matrix_wrapper([altered](std::unique_ptr<Implementation> right) {
      return std::make_unique<Matrix>(std::move(right), altered);
    });
  }
  ~AlteredProducts() { cpu::set_matrix_wrapper({}); }
  AlteredProducts(const AlteredProducts&) = delete;
  AlteredProducts& operator=(const AlteredProducts&) = delete;

 private:
  using Implementation = cpu::PackedMatrix::Implementation;

  class Matrix final : public Implementation {
   public:
    Matrix(std::unique_ptr<Implementation> right, Condition altered)
        : right_(std::move(right)), altered_(std::move(altered)) {}
    void multiply(ConstView x, View y, bool accumulate, int threads) override {
      right_->multiply(x, y, accumulate, 1);  // the thread sanitizer does not know the library's threads
      if (!altered_(x.rows(), threads)) return;
      for (std::int64_t row = 0; row < y.rows(); ++row)
        y.row<float>(row)[0] = std::nextafter(y.row<float>(row)[0], HUGE_VALF);
    }
    std::size_t bytes() const override { return right_->bytes(); }

   private:
    std::unique_ptr<Implementation> right_;
    Condition altered_;
  };
};

}  // namespace biqa::testing
