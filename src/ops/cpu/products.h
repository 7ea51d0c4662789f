// SPDX-License-Identifier: Apache-2.0
// Matrix products through oneDNN: weights are packed once in the library's own layout and serve every row count.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace biqa::cpu {

/// B of y [M, n] f32 (+)= x [M, k] · B + bias. Row counts are split so that few primitives are ever made; a
/// row's result does not depend on the split (tested).
class PackedMatrix {
 public:
  /// `weight` is [n, k] when transposed (y = x·Wᵀ), else [k, n] (y = x·W); x will have type `compute`.
  PackedMatrix(ConstView weight, bool transposed, std::span<const float> bias, DType compute);
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  void multiply(ConstView x, View y, bool accumulate);
  std::size_t bytes() const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace biqa::cpu
