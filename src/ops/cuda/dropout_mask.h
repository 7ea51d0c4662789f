// SPDX-License-Identifier: Apache-2.0
// The dropout of a projection's input, as kernels apply it. Private to the .cu files.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/random.h"
#include "ops/cuda/kernel_support.h"
#include "ops/cuda/lora.h"

namespace biqa::cuda {

/// DropoutMask for a kernel. A word w of the stream stands for u = w / 2^32. The threshold is such that w < threshold
/// exactly if u < rate.
struct Mask {
  std::uint64_t threshold = 0;
  float factor = 1;  ///< of the elements that are kept
  StreamName name{3};
  const std::uint64_t* token_keys = nullptr;

  __device__ bool empty() const { return threshold == 0; }
  __device__ RandomStream stream(std::int64_t row) const {
    return RandomStream(name.with(token_keys[row]).key());
  }
  /// Whether element `i` of four elements is dropped. `words`: the random words of the four.
  __device__ bool drops(const Words<4>& words, int i) const {
    return std::uint64_t{words.word[i]} < threshold;
  }
  /// Multiplies the values of four columns by their factors. `column`: the first of them, a multiple of four.
  __device__ void apply(const RandomStream& stream, int column, Quad<float>& values) const {
    const Words<4> words = stream.bits(static_cast<std::uint64_t>(column) / kQuad);
    for (int i = 0; i < kQuad; ++i) values.values[i] *= drops(words, i) ? 0.0F : factor;
  }
};

inline Mask mask_of(const DropoutMask& mask, std::int64_t rows) {
  if (mask.rate == 0) return {};
  CHECK(mask.rate > 0 && mask.rate < 1) << "rate " << mask.rate;
  CHECK(mask.token_keys.size == rows) << mask.token_keys.size << " keys for " << rows << " rows";
  return {static_cast<std::uint64_t>(std::ceil(mask.rate * 0x1.0p32)),
          static_cast<float>(1.0 / (1.0 - mask.rate)), StreamName(3).with(mask.key).with(mask.projection),
          mask.token_keys.data};
}

}  // namespace biqa::cuda
