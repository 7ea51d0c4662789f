// SPDX-License-Identifier: Apache-2.0
// Cosines and sines of rotary positions. Every backend uses these, so that all rotate with the same bits.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/batch.h"
#include "tensor/tensor.h"

namespace biqa {

/// Frequencies of the language model. Grows with the highest position so far. Only one thread at a time may use it.
class RotaryTable {
 public:
  /// `section`: number of frequencies of the temporal, height and width coordinates; their sum is head_dim/2.
  RotaryTable(std::int64_t head_dim, double theta, const std::array<std::int64_t, 3>& section);
  /// Fills cosines and sines [positions, head_dim/2] f32 in host memory. The angle is position · frequency.
  void fill(std::span<const Position> positions, View cosines, View sines);

 private:
  void grow(std::int32_t highest);
  std::int64_t half_;
  std::vector<float> frequencies_, cosines_, sines_;
  std::vector<std::size_t> axes_;  // of each frequency
};

}  // namespace biqa
