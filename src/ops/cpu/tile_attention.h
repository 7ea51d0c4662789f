// SPDX-License-Identifier: Apache-2.0
// Attention in bf16 on tile registers. A tile holds 16 queries. One instruction adds the products of 32 elements of a
// head, or of the 16 keys of a page. Queries, weights, gradients of scores and the gradient of the output are rounded
// to bf16; all sums are f32. A query's result depends on its own keys only, and not on the other queries of its tile.
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "ops/cpu/kernels.h"

namespace biqa::cpu {

/// Queries of a tile.
inline constexpr std::int64_t kTileQueries = 16;
/// Queries that the backward pass takes at once. Sums over queries add this many at a time.
inline constexpr std::int64_t kBackwardQueries = 32;

/// Up to 16 queries that share a kv head. Pages are as in AttendBlock, but keys are padded with zeros
/// to [dim_steps · 16, 16, 2].
struct TileAttention {
  std::int64_t queries;
  std::int64_t dim_steps;              ///< steps of 32 elements of a head
  std::int64_t padded_dim;             ///< the head's dimension rounded up to 16
  const Bf16* q;                       ///< [queries, dim_steps · 32], with zeros after the head's dimension
  std::int64_t lengths[kTileQueries];  ///< number of keys that each query attends to
  const std::int32_t* pages;           ///< or null: page p is the p-th one
  const Bf16* keys;
  const Bf16* values;
  std::int64_t page_elements;
  float scale;
  float* scores;               ///< scratch [queries, scores_stride]
  Bf16* weights;               ///< scratch [queries, scores_stride]
  std::int64_t scores_stride;  ///< at least the longest length rounded up to 16
  Bf16* page;                  ///< scratch for the values of a page
  float* out;                  ///< [queries, padded_dim]: the sums of weights · values
  float sums[kTileQueries];    ///< of the weights
  float lse[kTileQueries];
};

/// The backward pass for up to 32 queries that share a kv head. Keys and values are contiguous pages. With fewer
/// queries, the remaining rows are zero and have the length 0.
struct TileAttentionBackward {
  std::int64_t dim_steps, padded_dim;
  const Bf16* q;                 ///< [32, dim_steps · 32], with zeros after the head's dimension
  const Bf16* d_out;             ///< likewise
  const Bf16* q_transposed;      ///< [padded_dim, 32]
  const Bf16* d_out_transposed;  ///< likewise
  const Bf16* keys;              ///< [pages, dim_steps · 16, 16, 2]: pairs of elements
  const Bf16* values;            ///< likewise
  const Bf16* key_pairs;         ///< [pages, 8, padded_dim, 2]: pairs of keys
  float lse[kBackwardQueries];
  float delta[kBackwardQueries];  ///< Σ d_out ⊙ out
  std::int64_t lengths[kBackwardQueries];
  float scale;
  float* scratch;                ///< kBackwardScratch floats, aligned to 64 bytes
  Bf16* d_scores;                ///< scratch [32, d_scores_stride]
  std::int64_t d_scores_stride;  ///< at least the longest length rounded up to 16
  float* d_q;                    ///< [32, padded_dim], overwritten
  float* d_keys;                 ///< [pages, padded_dim, 16], +=
  float* d_values;               ///< likewise
};
inline constexpr std::int64_t kBackwardScratch = 2 * kBackwardQueries * 16 + 2 * 16 * 16;

struct TileAttentionKernels {
  void (*forward)(TileAttention& block, const Kernels& kernels);
  void (*backward)(const TileAttentionBackward& block, const Kernels& kernels);
};

}  // namespace biqa::cpu
