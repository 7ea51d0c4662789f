// SPDX-License-Identifier: Apache-2.0
// The interface to cuBLASLt: one product, without CUDA types, so that tests can replace it by a host product.
#pragma once

#include "tensor/tensor.h"

namespace biqa::cuda {

class MatmulBackend {
 public:
  virtual ~MatmulBackend() = default;

  /// y[t,o] = Σ over i of x[t,i] · weight[o,i] + bias[o], accumulated in f32 and rounded once to y's type.
  /// x [tokens, in] and weight [out, in] both bf16 or both f32 (then without TF32); bias [1, out] of y's
  /// type, or an empty view for none; y [tokens, out] f32, or bf16 where x is. Rows may be spaced; y overlaps nothing.
  void linear(ConstView x, ConstView weight, ConstView bias, View y);

 private:
  virtual void multiply(ConstView x, ConstView weight, ConstView bias, View y) = 0;
};

}  // namespace biqa::cuda
