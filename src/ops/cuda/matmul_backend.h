// SPDX-License-Identifier: Apache-2.0
// The interface to cuBLASLt: products of matrices in device memory, without CUDA types, so that tests can replace it by a host
// product. Calls only enqueue work on the backend's stream.
#pragma once

#include <memory>

#include "tensor/tensor.h"

namespace biqa::cuda {

class Stream;

class MatmulBackend {
 public:
  virtual ~MatmulBackend() = default;

  /// y[t,o] = Σ over i of x[t,i] · weight[o,i] + bias[o], accumulated in f32 and rounded once to y's type. With `accumulate`
  /// the sum is added to y.
  /// x [tokens, in] and weight [out, in] both bf16 or both f32 (then without TF32); bias [1, out] of y's
  /// type, or an empty view for none; y [tokens, out] f32, or bf16 where x is. Rows may be spaced; y overlaps nothing.
  void linear(ConstView x, ConstView weight, ConstView bias, View y, bool accumulate = false);
  /// dx[t,i] (+)= Σ over o of dy[t,o] · weight[o,i]; types as in linear(), dy for x and dx for y.
  void linear_backward(ConstView dy, ConstView weight, View dx, bool accumulate = false);

 private:
  /// `transposed`: y = x · weightᵀ, else y = x · weight.
  virtual void multiply(ConstView x, ConstView weight, bool transposed, ConstView bias, View y,
                        bool accumulate) = 0;
};

/// cuBLASLt's products, enqueued on `stream`, which must outlive the backend. In the emulator, host loops.
std::unique_ptr<MatmulBackend> make_matmul_backend(const Stream& stream);

}  // namespace biqa::cuda
