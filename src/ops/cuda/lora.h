// SPDX-License-Identifier: Apache-2.0
// Products with the narrow factors of an adapter, and dropout, in device memory. Plain kernels with f32 sums in a fixed order
// per output element. All calls only enqueue work on `stream`.
#pragma once

#include <cstdint>

#include "tensor/cuda/runtime.h"
#include "tensor/cuda/span.h"

namespace biqa::cuda {

/// Inverted dropout of one projection's input. Element (row, column) has the factor 0 if u < rate and else 1/(1 − rate), where
/// u is word column mod 4 of block column div 4 of the random stream {key, projection, token_keys[row]}, divided by 2^32
/// (core/random.h). `rate` 0 means no dropout.
struct DropoutMask {
  double rate = 0;
  std::uint64_t key = 0;
  std::uint64_t projection = 0;
  DeviceSpan<std::uint64_t> token_keys;  ///< one per row
};

/// u [T, rank] f32 = (mask ⊙ x) · factorsᵀ; x [T, n] f32 or bf16; factors [rank, n] f32. The order of a sum depends on n alone.
void reduce(ConstView x, ConstView factors, const DropoutMask& mask, View u, const Stream& stream);
/// y [T, n] f32 += mask ⊙ (scale · u · factors); u [T, rank] f32, factors [rank, n] f32. Sums over the rank in order.
void expand(ConstView u, ConstView factors, float scale, const DropoutMask& mask, View y,
            const Stream& stream);
/// target[r, c] (or target[c, r] if `transposed`) += scale · Σ over t of g[t, r] · (mask ⊙ x)[t, c]; g [T, rank] f32; x [T, n]
/// f32 or bf16; target f32 [rank, n] (or [n, rank]). Up to 16 parts of consecutive rows are summed in order, then added in
/// order; their number depends on T alone.
void outer(ConstView g, ConstView x, const DropoutMask& mask, float scale, bool transposed, View target,
           const Stream& stream);

}  // namespace biqa::cuda
