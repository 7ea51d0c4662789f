// SPDX-License-Identifier: Apache-2.0
// The interface to cuBLASLt: products of matrices in device memory. It has no CUDA types, so that tests can replace
// cuBLASLt by host loops. Calls only enqueue work on the backend's stream.
#pragma once

#include <memory>

#include "tensor/tensor.h"

namespace biqa::cuda {

class Stream;

class MatmulBackend {
 public:
  virtual ~MatmulBackend() = default;

  /// y[t,o] = Σ over i of x[t,i] · weight[o,i] + bias[o], accumulated in f32 and rounded once to y's type. With
  /// `accumulate`, the sum is added to y. x [tokens, in] and weight [out, in] are both bf16, or both f32 (then without
  /// TF32). y [tokens, out] is f32, or bf16 if x is bf16. bias [1, out] has y's type; an empty view means no bias. Rows
  /// may have a stride. y overlaps no other argument.
  void linear(ConstView x, ConstView weight, ConstView bias, View y, bool accumulate = false);
  /// dx[t,i] (+)= Σ over o of dy[t,o] · weight[o,i]. dy has the type of x in linear(), and dx that of y.
  void linear_backward(ConstView dy, ConstView weight, View dx, bool accumulate = false);

 private:
  /// `transposed`: y = x · weightᵀ, else y = x · weight.
  virtual void multiply(ConstView x, ConstView weight, bool transposed, ConstView bias, View y,
                        bool accumulate) = 0;
};

/// Makes the backend for cuBLASLt, with work on `stream`, which must outlive it. In the emulator, it makes host loops.
std::unique_ptr<MatmulBackend> make_matmul_backend(const Stream& stream);

}  // namespace biqa::cuda
