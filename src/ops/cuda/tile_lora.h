// SPDX-License-Identifier: Apache-2.0
// lora.h on tensor cores, for inputs in bf16. A factor in f32 becomes the sum of two numbers in bf16, so that a product with it
// is two products of tensor cores. The adapter keeps 16 bits of its factors in this way, not the 8 of bf16. docs/numerics.md
// derives the bounds. All calls only enqueue work on `stream`.
#pragma once

#include <span>

#include "ops/cuda/lora.h"
#include "tensor/arena.h"

namespace biqa::cuda {

/// Factors [rank, n], each as two bf16: `high` is the rounded factor, `low` the rounded rest. So
/// |high + low − factor| ≤ 2^-17 · |factor|.
struct SplitFactors {
  ConstView high, low;
  SplitFactors row_range(std::int64_t first, std::int64_t count) const {
    return {high.row_range(first, count), low.row_range(first, count)};
  }
};
/// factors f32, dense; high and low bf16 of the same shape.
void split(ConstView factors, View high, View low, const Stream& stream);

/// Whether the calls below take the matrix as x, y or factors: address, row stride and columns are multiples of 16 bytes.
bool fits_tiles(ConstView matrix);

/// As reduce() in lora.h, but x is bf16. The columns are summed in up to 16 parts, whose number depends on n alone. The parts
/// are taken from `arena` and added in order.
void reduce(ConstView x, const SplitFactors& factors, const DropoutMask& mask, View u, Arena& arena,
            const Stream& stream);
/// mask ⊙ (scale · u · factors) [T, n]: the adapter's part of a matrix. u [T, rank] f32; factors [rank, n]. An empty u means
/// zeros.
struct LowRankTerm {
  ConstView u;
  SplitFactors factors;
  float scale = 1;
  DropoutMask mask;
};
/// y [T, n] f32 += each of up to three terms, in order. u is split like the factors. The product of the two low halves is left
/// out: it is below 2^-16 of the whole.
void expand(std::span<const LowRankTerm> terms, View y, const Stream& stream);
/// As outer() in lora.h, but x is bf16. g is split like factors. The rows are summed in up to 16 parts, whose number depends
/// on T alone. The parts are taken from `arena` and added in order.
void outer(ConstView g, ConstView x, const DropoutMask& mask, float scale, bool transposed, View target,
           Arena& arena, const Stream& stream);

}  // namespace biqa::cuda
