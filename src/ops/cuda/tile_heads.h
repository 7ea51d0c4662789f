// SPDX-License-Identifier: Apache-2.0
// The heads of queries, keys and values, from a product in bf16 to which neither bias nor adapter has been added yet
// (docs/decisions/0029-the-reader-adds-the-adapter.md). All calls only enqueue work on `stream`.
#pragma once

#include <array>

#include "ops/batch.h"
#include "ops/cuda/tile_lora.h"

namespace biqa::cuda {

/// x [T, (heads + 2 · kv_heads) · D] bf16 = [queries | keys | values]: adds `bias` [1, columns] f32 (or empty) and the terms of
/// the three projections, rotates queries and keys as rotate() in rows.h does, and rounds once. `cosines` and `sines` are
/// [T, D/2] f32. Computed in f32. The shape must satisfy heads_fit() in buffers.h.
void finish_heads(View x, ConstView bias, const std::array<LowRankTerm, 3>& terms, const HeadShape& shape,
                  ConstView cosines, ConstView sines, const Stream& stream);

}  // namespace biqa::cuda
