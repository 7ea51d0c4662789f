// SPDX-License-Identifier: Apache-2.0
// Shared by the tensor-core kernels: blocks of rows in shared memory, fragments and products. Private to
// the .cu files. D is the head dimension, rounded up to a value for which the kernels are compiled. The additional
// elements are zero.
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
inline constexpr int kWarpPairs = kTilePairs / kTileWarps;  // pairs of one warp: the rows of one mma
static_assert(kWarpPairs == 16);
inline constexpr int kChunk = 8;  // elements that copy_async takes at once
inline constexpr float kLog2E = 1.44269504F;
inline constexpr float kLn2 = 0.693147182F;

/// Elements from one row in shared memory to the next. Eight consecutive rows begin in different banks.
template <int D>
inline constexpr int kRowStride = D + kChunk;

/// The two numbers of a pair in bf16.
__device__ inline float first_of(std::uint32_t pair) {
  return __builtin_bit_cast(float, pair << 16);
}
__device__ inline float second_of(std::uint32_t pair) {
  return __builtin_bit_cast(float, pair & 0xffff0000U);
}

/// Two adjacent floats, read or written with one instruction.
struct alignas(8) FloatPair {
  float low, high;
};

/// Elements `offset` and `offset` + 1 of an array of bf16 or f32.
__device__ inline FloatPair load_pair(const void* data, bool is_bf16, std::int64_t offset) {
  if (!is_bf16) return *reinterpret_cast<const FloatPair*>(static_cast<const float*>(data) + offset);
  const auto pair = *reinterpret_cast<const std::uint32_t*>(static_cast<const Bf16*>(data) + offset);
  return {first_of(pair), second_of(pair)};
}

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

/// Row and head of a pair of a tile. An index after the last pair gives the row and head of the first pair, with
/// `there` = false; its results are not written.
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

/// Keys and values in global memory: in pages, or in packed rows if page_table is null.
struct KeySource {
  const Bf16* keys;    // the keys of kv head 0 in page 0 or row 0
  const Bf16* values;  // the same for values
  std::int64_t row_stride, head_stride;
  const std::int32_t* page_table;
  std::int64_t page_elements;

  /// Offset of key `key` of the run that begins at `first`. In pages, `key` must be the first key of a page.
  __device__ std::int64_t offset(int first, int key, int kv_head) const {
    const std::int64_t start = page_table != nullptr ? page_table[first + key / kBlockKeys] * page_elements
                                                     : (static_cast<std::int64_t>(first) + key) * row_stride;
    return start + kv_head * head_stride;
  }
};

/// Starts to copy kKeys keys, and after them their values, to shared memory [2 · kKeys, kRowStride<D>]. Keys and values
/// from `count` on are not read; zeros are written for them. The copies form one copy group.
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

/// For the left factor of an mma. The mma sums over the columns of the block.
template <int D>
__device__ const Bf16* left_address(const Bf16* block, int row, int column) {
  const int lane = lane_index();
  return block + (row + lane % 16) * kRowStride<D> + column + lane / 16 * 8;
}
/// For the right factor of an mma that sums over the columns of the block. Registers 0 and 1 belong to rows 0 … 7,
/// registers 2 and 3 to rows 8 … 15.
template <int D>
__device__ const Bf16* right_address(const Bf16* block, int row, int column) {
  const int lane = lane_index();
  return block + (row + lane / 16 * 8 + lane % 8) * kRowStride<D> + column + lane / 8 % 2 * 8;
}
/// For the right factor of an mma that sums over the rows of the block, loaded with ldmatrix_transposed. Registers 0
/// and 1 belong to columns 0 … 7, registers 2 and 3 to columns 8 … 15.
template <int D>
__device__ const Bf16* right_transposed_address(const Bf16* block, int row, int column) {
  const int lane = lane_index();
  return block + (row + lane / 8 % 2 * 8 + lane % 8) * kRowStride<D> + column + lane / 16 * 8;
}

/// [first | second] [16, 16] += left [16, 16] · right [16, 16]. `right` was loaded by ldmatrix or ldmatrix_transposed.
__device__ inline void multiply(float (&first)[4], float (&second)[4], const std::uint32_t (&left)[4],
                                const std::uint32_t (&right)[4]) {
  mma(first, left, right[0], right[1]);
  mma(second, left, right[2], right[3]);
}

/// Rounds 16 columns of accumulators to bf16, as the left factor of the next product.
__device__ inline void pack_left(std::uint32_t (&left)[4], const float (&first)[4],
                                 const float (&second)[4]) {
  left[0] = pack_bf16(first[0], first[1]);
  left[1] = pack_bf16(first[2], first[3]);
  left[2] = pack_bf16(second[0], second[1]);
  left[3] = pack_bf16(second[2], second[3]);
}

/// sums [16, D] += weights [16, 8·kParts] · block [8·kParts, D]. The weights are rounded to bf16.
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
