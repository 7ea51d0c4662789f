// SPDX-License-Identifier: Apache-2.0
// W + scale · B A as a matrix of its own: what merging an adapter means.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "io/safetensors.h"

namespace biqa {

/// What LoRA adds to a weight [out, in]: A [rank, in] and B [out, rank], borrowed.
struct LowRank {
  std::int64_t out = 0, rank = 0, in = 0;
  float scale = 0;
  const float* a = nullptr;
  const float* b = nullptr;
};

/// target [out, in], row-major, of `type` (F32, BF16 or F16): W + scale · Σ_r B[:, r] A[r, :], computed in f32 in the order
/// of r and rounded once (nearest even). The weight's first dimension is `out`, the others together are `in`. False where
/// a value is not finite in `type`. A row depends on no other, so the number of threads changes nothing.
bool merge_low_rank(const StoredTensor& weight, const LowRank& change, StoredType type,
                    std::span<std::byte> target);

}  // namespace biqa
