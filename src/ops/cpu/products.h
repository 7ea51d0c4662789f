// SPDX-License-Identifier: Apache-2.0
// Matrix products through oneDNN: weights are packed once in the library's own layout and serve every row count.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor.h"
#include "tensor/weight_arena.h"

namespace biqa::cpu {

/// Where a packed matrix stands that processes share.
struct ArenaPlace {
  WeightArena* arena = nullptr;
  std::string name;
  WeightPart part = WeightPart::forward;
};

/// B of y [M, n] f32 (+)= x [M, k] · B + bias. Row counts are split so that few primitives are ever made; a
/// row's result does not depend on the split (tested).
class PackedMatrix {
 public:
  /// `weight` is [n, k] when transposed (y = x·Wᵀ), else [k, n] (y = x·W); x will have type `compute`.
  /// With `place` the memory is the arena's, and weight and bias are read only where that is filling.
  PackedMatrix(ConstView weight, bool transposed, std::span<const float> bias, DType compute,
               const ArenaPlace* place = nullptr);
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  void multiply(ConstView x, View y, bool accumulate);
  std::size_t bytes() const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace biqa::cpu
