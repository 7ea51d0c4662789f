// SPDX-License-Identifier: Apache-2.0
// What the tensor-core kernels of attention share: blocks of rows in shared memory, fragments, products. Private to the .cu
// files. D is the head dimension, rounded up to one that the kernels are compiled for. What lies between is zero.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/bf16.h"
#include "ops/cuda/attention_tiles.h"
#include "ops/cuda/kernel_support.h"
#include "ops/cuda/warp.h"

#ifdef __CUDACC__
#define BIQA_UNROLL _Pragma("unroll")
#define BIQA_KEEP_LOOP _Pragma("unroll 1")
#else
#define BIQA_UNROLL
#define BIQA_KEEP_LOOP
#endif

namespace biqa::cuda {

inline constexpr int kTileWarps = 4;
inline constexpr int kTileThreads = kTileWarps * kWarpSize;
inline constexpr int kWarpPairs = kTilePairs / kTileWarps;  // the rows of one mma
static_assert(kWarpPairs == 16);
inline constexpr int kChunk = 8;  // elements that copy_async takes at once
inline constexpr float kLog2E = 1.44269504F;
inline constexpr float kLn2 = 0.693147182F;

/// Elements from one row in shared memory to the next. Eight consecutive rows begin in different banks.
template <int D>
inline constexpr int kRowStride = D + kChunk;

/// Two neighbours, read and written at once.
struct alignas(8) FloatPair {
  float low, high;
};

__device__ inline int lane_index() {
  return thread_index() % kWarpSize;
}
__device__ inline int warp_index() {
  return thread_index() / kWarpSize;
}
/// The first of the two neighbouring columns that the lane holds in an 8-column fragment.
__device__ inline int lane_column() {
  return lane_index() % 4 * 2;
}
/// The fragment row of the lane's elements `half` · 2 and `half` · 2 + 1.
__device__ inline int lane_row(int half) {
  return lane_index() / 4 + half * 8;
}

/// A pair of a tile as row and head. Pairs behind the last one stand for the first and are not written.
struct Pair {
  int row, head;
  int later;  // rows after the tile's first
  bool there;
};
__device__ inline Pair pair_at(int first_pair, int pairs, int index, int heads_per_kv_head, int kv_head) {
  const bool there = index < pairs;
  const int pair = first_pair + (there ? index : 0);
  const int row = pair / heads_per_kv_head;
  return {row, kv_head * heads_per_kv_head + pair % heads_per_kv_head, row - first_pair / heads_per_kv_head,
          there};
}

/// Keys and values in global memory: in pages, or in packed rows where page_table is null.
struct KeySource {
  const Bf16* keys;    // of kv head 0 in page or row 0
  const Bf16* values;  // the same
  std::int64_t row_stride, head_stride;
  const std::int32_t* page_table;
  std::int64_t page_elements;

  /// Of key `key` of the run that begins at `first`; in pages, the first key of one.
  __device__ std::int64_t offset(int first, int key, int kv_head) const {
    const std::int64_t start = page_table != nullptr ? page_table[first + key / kBlockKeys] * page_elements
                                                     : (static_cast<std::int64_t>(first) + key) * row_stride;
    return start + kv_head * head_stride;
  }
};

/// Starts the copy of kKeys keys, and their values behind them, to shared memory [2 · kKeys, kRowStride<D>]. Zeros stand for
/// those from `count` on, which are not read. Closes a copy group.
template <int D, int kKeys>
__device__ void load_keys(Bf16* shared, const KeySource& source, std::int64_t offset, int count,
                          int head_dim) {
  constexpr int kChunks = D / kChunk;
  for (int i = thread_index(); i < 2 * kKeys * kChunks; i += kTileThreads) {
    const int row = i / kChunks;
    const int column = i % kChunks * kChunk;
    const int key = row % kKeys;
    const Bf16* matrix = row < kKeys ? source.keys : source.values;
    const bool there = key < count && column < head_dim;
    copy_async(shared + row * kRowStride<D> + column,
               there ? matrix + offset + key * source.row_stride + column : matrix, there);
  }
  copy_commit();
}

// Addresses that the lane hands to ldmatrix for 16 × 16 elements of a block in shared memory.

/// The left factor of an mma, which sums over the columns.
template <int D>
__device__ const Bf16* left_address(const Bf16* block, int row, int column) {
  const int lane = lane_index();
  return block + (row + lane % 16) * kRowStride<D> + column + lane / 16 * 8;
}
/// The right factor of a sum over the columns: registers 0 and 1 belong to rows 0 … 7, registers 2 and 3 to the others.
template <int D>
__device__ const Bf16* right_address(const Bf16* block, int row, int column) {
  const int lane = lane_index();
  return block + (row + lane / 16 * 8 + lane % 8) * kRowStride<D> + column + lane / 8 % 2 * 8;
}
/// The right factor of a sum over the rows (transposed): registers 0 and 1 belong to columns 0 … 7.
template <int D>
__device__ const Bf16* right_transposed_address(const Bf16* block, int row, int column) {
  const int lane = lane_index();
  return block + (row + lane / 8 % 2 * 8 + lane % 8) * kRowStride<D> + column + lane / 16 * 8;
}

/// sums [16, 16] += left [16, 16] · right, of which ldmatrix has given `right`.
__device__ inline void multiply(float (&first)[4], float (&second)[4], const std::uint32_t (&left)[4],
                                const std::uint32_t (&right)[4]) {
  mma(first, left, right[0], right[1]);
  mma(second, left, right[2], right[3]);
}

/// 16 columns of accumulators, rounded to bf16, as the left factor of the next product.
__device__ inline void pack_left(std::uint32_t (&left)[4], const float (&first)[4],
                                 const float (&second)[4]) {
  left[0] = pack_bf16(first[0], first[1]);
  left[1] = pack_bf16(first[2], first[3]);
  left[2] = pack_bf16(second[0], second[1]);
  left[3] = pack_bf16(second[2], second[3]);
}

/// sums [16, D] += weights [16, 8·kParts], rounded to bf16, · block [8·kParts, D] from row `first_row` on.
template <int D, int kParts>
__device__ void add_weighted(float (&sums)[D / 8][4], const float (&weights)[kParts][4], const Bf16* block) {
  BIQA_UNROLL
  for (int j = 0; j < kParts / 2; ++j) {
    std::uint32_t left[4];
    pack_left(left, weights[2 * j], weights[2 * j + 1]);
    BIQA_UNROLL
    for (int d = 0; d < D / 16; ++d) {
      std::uint32_t right[4];
      ldmatrix_transposed(right, right_transposed_address<D>(block, j * 16, d * 16));
      multiply(sums[2 * d], sums[2 * d + 1], left, right);
    }
  }
}

template <int kParts>
__device__ void set_zero(float (&sums)[kParts][4]) {
  BIQA_UNROLL
  for (int n = 0; n < kParts; ++n) {
    BIQA_UNROLL
    for (int i = 0; i < 4; ++i) sums[n][i] = 0.0F;
  }
}

/// Calls f with the head dimension, rounded up, as a constant.
template <typename F>
void with_rounded_head_dim(std::int64_t head_dim, F f) {
  if (head_dim <= 16) return f(std::integral_constant<int, 16>{});
  if (head_dim <= 32) return f(std::integral_constant<int, 32>{});
  if (head_dim <= 64) return f(std::integral_constant<int, 64>{});
  if (head_dim <= 80) return f(std::integral_constant<int, 80>{});
  return f(std::integral_constant<int, 128>{});
}

/// Checks that rows begin at multiples of `bytes`.
inline void check_aligned(ConstView rows, std::size_t bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(rows.address());
  CHECK(address % bytes == 0 && static_cast<std::size_t>(rows.stride()) * size_of(rows.type()) % bytes == 0)
      << "rows are not aligned to " << bytes << " bytes";
}

}  // namespace biqa::cuda
