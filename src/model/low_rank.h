// SPDX-License-Identifier: Apache-2.0
// Merges an adapter into a weight: W + scale · B A as one matrix.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "io/safetensors.h"

namespace biqa {

/// The change of a weight [out, in] by LoRA: A [rank, in] and B [out, rank], borrowed.
struct LowRank {
  std::int64_t out = 0, rank = 0, in = 0;
  float scale = 0;
  const float* a = nullptr;
  const float* b = nullptr;
};

/// target = W + scale · Σ_r B[:, r] A[r, :], computed in f32 in the order of r and rounded once (nearest even).
/// `target` is [out, in], row-major, of `type` (F32, BF16 or F16). The weight's first dimension is `out`, the product
/// of the others is `in`. Returns false if a value is not finite in `type`. Rows are independent, so the number of
/// threads does not change the result.
bool merge_low_rank(const StoredTensor& weight, const LowRank& change, StoredType type,
                    std::span<std::byte> target);

}  // namespace biqa
