// SPDX-License-Identifier: Apache-2.0
// Cosines and sines of rotary positions. Every backend takes them from here, so that all rotate by the same bits.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/batch.h"
#include "tensor/tensor.h"

namespace biqa {

/// Frequencies of the language model; grows with the highest position met. One thread at a time.
class RotaryTable {
 public:
  /// `section`: how many frequencies follow the temporal, the height and the width coordinate; they add up to head_dim/2.
  RotaryTable(std::int64_t head_dim, double theta, const std::array<std::int64_t, 3>& section);
  /// cosines, sines [positions, head_dim/2] f32, host: of position · frequency.
  void fill(std::span<const Position> positions, View cosines, View sines);

 private:
  void grow(std::int32_t highest);
  std::int64_t half_;
  std::vector<float> frequencies_, cosines_, sines_;
  std::vector<std::size_t> axes_;  // of each frequency
};

}  // namespace biqa
