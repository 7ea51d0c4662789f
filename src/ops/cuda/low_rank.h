// SPDX-License-Identifier: Apache-2.0
// Shared by the tensor-core kernels that multiply with an adapter's narrow factors: eight neighbours in bf16, dropout, numbers
// split into two, and the sums u · factors of a tile. Private to the .cu files.
#pragma once

#include <cstdint>
#include <limits>

#include "core/bf16.h"
#include "ops/cuda/dropout_mask.h"
#include "ops/cuda/tile_kernels.h"
#include "ops/cuda/tile_lora.h"

namespace biqa::cuda {

inline constexpr int kRowsOfTile = 64;  // that a block takes: 16 in each warp

/// Eight neighbours in bf16.
struct alignas(16) Octet {
  std::uint32_t pairs[4];
};
__device__ inline Octet load_octet(const Bf16* from, bool there) {
  return there ? *reinterpret_cast<const Octet*>(from) : Octet{};
}
__device__ inline void store_octet(Bf16* to, const Octet& octet) {
  *reinterpret_cast<Octet*>(to) = octet;
}

/// Two numbers, each split into two bf16: `high` has both numbers rounded, `low` has the rounded rests.
struct SplitPair {
  std::uint32_t high, low;
};
__device__ inline SplitPair split_pair(float first, float second) {
  const std::uint32_t high = pack_bf16(first, second);
  return {high, pack_bf16(first - first_of(high), second - second_of(high))};
}

inline std::int64_t tiles(std::int64_t size, std::int64_t tile) {
  return (size + tile - 1) / tile;
}
/// A size of a grid in its second or third dimension.
inline unsigned small_grid_size(std::int64_t blocks) {
  constexpr std::int64_t kMost = 65535;
  CHECK(blocks > 0 && blocks <= kMost) << blocks << " blocks";
  return static_cast<unsigned>(blocks);
}
inline void check_fits_tiles(ConstView matrix) {
  CHECK(fits_tiles(matrix)) << matrix.rows() << "x" << matrix.columns() << " of stride " << matrix.stride()
                            << " does not fit tiles";
  CHECK(matrix.columns() <= std::numeric_limits<std::int32_t>::max() / 2) << matrix.columns() << " columns";
}
/// Checks a term for a matrix [rows, columns].
inline void check_low_rank(const LowRankTerm& term, std::int64_t rows, std::int64_t columns) {
  const ConstView& high = term.factors.high;
  CHECK(term.u.columns() == high.rows() && high.columns() == columns && term.u.rows() == rows)
      << "u " << term.u.rows() << "x" << term.u.columns() << ", factors " << high.rows() << "x"
      << high.columns() << ", matrix " << rows << "x" << columns;
  for (const ConstView matrix : {term.factors.high, term.factors.low}) check_fits_tiles(matrix);
}

/// LowRankTerm (tile_lora.h) for a kernel. `rank` 0: the term is zero.
struct LowRank {
  Rows<const float> u;
  Rows<const Bf16> high, low;
  float scale = 1;
  Mask mask;
  int rank = 0;
};
inline LowRank low_rank_of(const LowRankTerm& term, std::int64_t rows) {
  if (term.u.empty()) return {};
  return {rows_of<float>(term.u),          rows_of<Bf16>(term.factors.high),
          rows_of<Bf16>(term.factors.low), term.scale,
          mask_of(term.mask, rows),        static_cast<int>(term.u.columns())};
}

/// Which columns of a tile a lane holds in its accumulators [kParts][4]. An mma computes eight columns of
/// the tile. Which eight it takes is free, as long as loading the factors and using the sums follow the same choice.
struct NeighbourColumns {  // two neighbours in each part
  /// The column of the tile that the mma of part `n` computes as its column `j`.
  template <int kParts>
  __device__ static int at(int n, int j) {
    return n * 8 + j;
  }
};
struct RunColumns {  // 2 · kParts neighbours: the sums of part n are columns 2n and 2n + 1 of the lane's run
  template <int kParts>
  __device__ static int at(int n, int j) {
    return j / 2 * (2 * kParts) + n * 2 + j % 2;
  }
};
/// The first column of the lane's run.
template <int kParts>
__device__ int run_column(int first_column) {
  return first_column + lane_index() % 4 * (2 * kParts);
}

/// Columns `rank` and `rank` + 1 of a row of u; zeros from a.rank on and in rows that are not there.
__device__ inline SplitPair load_inner(const LowRank& a, std::int64_t row, std::int64_t rows, int rank) {
  if (row >= rows || rank >= a.rank) return {};
  return split_pair(a.u[row][rank], rank + 1 < a.rank ? a.u[row][rank + 1] : 0.0F);
}
/// Elements `rank` and `rank` + 1 of a column of the factors; zeros where there are none.
__device__ inline std::uint32_t load_factors(const Rows<const Bf16>& factors, int rank, int ranks, int column,
                                             int columns) {
  if (column >= columns || rank >= ranks) return 0;
  std::uint32_t pair = factors[rank][column].bits;
  if (rank + 1 < ranks) pair |= static_cast<std::uint32_t>(factors[rank + 1][column].bits) << 16;
  return pair;
}

/// sums = u · factors for the 16 rows from `first_row` on and the 8 · kParts columns from `first_column` on, without scale and
/// mask. Both operands are split; the product of the two low halves is left out. Rows from `rows` and columns from `columns`
/// on are zero.
template <typename Columns, int kParts>
__device__ void low_rank_sums(const LowRank& a, std::int64_t first_row, std::int64_t rows, int first_column,
                              int columns, float (&sums)[kParts][4]) {
  set_zero(sums);
  BIQA_KEEP_LOOP
  for (int k = 0; k < a.rank; k += 16) {
    std::uint32_t left[4];
    std::uint32_t left_rest[4];
    BIQA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const SplitPair pair = load_inner(a, first_row + lane_row(i % 2), rows, k + lane_column() + i / 2 * 8);
      left[i] = pair.high;
      left_rest[i] = pair.low;
    }
    BIQA_UNROLL
    for (int n = 0; n < kParts; ++n) {
      const int column = first_column + Columns::template at<kParts>(n, lane_index() / 4);
      std::uint32_t high[2];
      std::uint32_t low[2];
      BIQA_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int rank = k + lane_column() + half * 8;
        high[half] = load_factors(a.high, rank, a.rank, column, columns);
        low[half] = load_factors(a.low, rank, a.rank, column, columns);
      }
      mma(sums[n], left, high[0], high[1]);
      mma(sums[n], left, low[0], low[1]);
      mma(sums[n], left_rest, high[0], high[1]);
    }
  }
}

/// Two sums of a row at `column`, which is even, times scale and mask.
__device__ inline FloatPair scaled_pair(const LowRank& a, std::int64_t row, int column, float first,
                                        float second) {
  first = first * a.scale;
  second = second * a.scale;
  if (a.mask.empty()) return {first, second};
  const Words<4> words = a.mask.stream(row).bits(static_cast<std::uint64_t>(column) / kQuad);
  return {a.mask.drops(words, column % kQuad) ? 0.0F : first * a.mask.factor,
          a.mask.drops(words, column % kQuad + 1) ? 0.0F : second * a.mask.factor};
}

}  // namespace biqa::cuda
