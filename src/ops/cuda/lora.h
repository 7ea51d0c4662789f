// SPDX-License-Identifier: Apache-2.0
// Products with the narrow factors of an adapter, with dropout, in device memory. The kernels do not use tensor cores.
// Every output element is an f32 sum in a fixed order. All calls only enqueue work on `stream`.
#pragma once

#include <cstdint>

#include "tensor/cuda/runtime.h"
#include "tensor/cuda/span.h"

namespace biqa::cuda {

/// Inverted dropout of one projection's input. Element (row, column) is multiplied by 0 if u < rate, otherwise by 1/(1
/// − rate). u is a word of the random stream {key, projection, token_keys[row]} (core/random.h), divided by 2^32. It is
/// word column mod 4 of block column div 4. `rate` 0 means no dropout.
struct DropoutMask {
  double rate = 0;
  std::uint64_t key = 0;
  std::uint64_t projection = 0;
  DeviceSpan<std::uint64_t> token_keys;  ///< one per row
};

/// u [T, rank] f32 = (mask ⊙ x) · factorsᵀ; x [T, n] f32 or bf16; factors [rank, n] f32. The order of a sum depends
/// only on n.
void reduce(ConstView x, ConstView factors, const DropoutMask& mask, View u, const Stream& stream);
/// y [T, n] f32 += mask ⊙ (scale · u · factors); u [T, rank] f32, factors [rank, n] f32. The sum over the rank runs in
/// order.
void expand(ConstView u, ConstView factors, float scale, const DropoutMask& mask, View y,
            const Stream& stream);
/// target[r, c] (or target[c, r] if `transposed`) += scale · Σ over t of g[t, r] · (mask ⊙ x)[t, c]; g [T, rank] f32; x [T, n]
/// f32 or bf16; target f32 [rank, n] (or [n, rank]). The rows are divided into up to 16 parts, each summed in order.
/// Then the parts are added in order. Their number depends only on T.
void outer(ConstView g, ConstView x, const DropoutMask& mask, float scale, bool transposed, View target,
           const Stream& stream);

}  // namespace biqa::cuda
