// SPDX-License-Identifier: Apache-2.0
// Products of matrices in device memory. Calls only enqueue work. product_classes.h chooses the algorithm of each
// product.
#pragma once

#include <memory>

#include "ops/cuda/product_classes.h"
#include "ops/cuda/product_library.h"
#include "tensor/tensor.h"

namespace biqa::cuda {

class MatmulBackend {
 public:
  explicit MatmulBackend(std::unique_ptr<ProductLibrary> library)
      : library_(std::move(library)), classes_(*library_) {}

  /// y[t,o] = Σ over i of x[t,i] · weight[o,i] + bias[o], accumulated in f32 and rounded once to y's type. With
  /// `accumulate`, the sum is added to y. x [tokens, in] and weight [out, in] are both bf16, or both f32 (then without
  /// TF32). y [tokens, out] is f32, or bf16 if x is bf16. bias [1, out] has y's type; an empty view means no bias. Rows
  /// may have a stride. y overlaps no other argument.
  void linear(ConstView x, ConstView weight, ConstView bias, View y, bool accumulate = false);
  /// dx[t,i] (+)= Σ over o of dy[t,o] · weight[o,i]. dy has the type of x in linear(), and dx that of y.
  void linear_backward(ConstView dy, ConstView weight, View dx, bool accumulate = false);

  const ProductLibrary& library() const { return *library_; }
  ProductClasses& classes() { return classes_; }

 private:
  std::unique_ptr<ProductLibrary> library_;
  ProductClasses classes_;
};

/// The backend for make_product_library(stream).
std::unique_ptr<MatmulBackend> make_matmul_backend(const Stream& stream);

}  // namespace biqa::cuda
