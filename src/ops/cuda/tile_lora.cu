// SPDX-License-Identifier: Apache-2.0
// A warp has a tile of sums in accumulators. Operands whose rows are the sum's order go from global memory straight into
// registers: the order in which an mma takes its 16 terms is free, so a lane reads eight neighbours of a row at once.
#include "ops/cuda/tile_lora.h"

#include "ops/cuda/buffers.h"
#include "ops/cuda/low_rank.h"

namespace biqa::cuda {
namespace {

constexpr int kColumnsOfTile = 64;    // that a block takes in outer
constexpr int kColumnsOfExpand = 32;  // in expand: more would need more registers
constexpr int kChunkColumns = 32;     // that a warp of reduce takes at once: eight in each lane
static_assert(kChunkColumns == kReduceUnit && kRowsOfTile == kOuterUnit);

/// Zeros in place of the dropped elements; the factor of the others is left to the sum.
__device__ void drop(const Mask& mask, const RandomStream& stream, int column, Octet& octet) {
  BIQA_UNROLL
  for (int q = 0; q < 2; ++q) {
    const Words<4> words =
        stream.bits(static_cast<std::uint64_t>(column) / kQuad + static_cast<std::uint64_t>(q));
    BIQA_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      const std::uint32_t half = i % 2 == 0 ? 0x0000ffffU : 0xffff0000U;
      if (mask.drops(words, i)) octet.pairs[q * 2 + i / 2] &= ~half;
    }
  }
}

__global__ void split_kernel(const float* factors, Bf16* high, Bf16* low, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads() + thread_index();
  if (i >= count) return;
  const Bf16 rounded = to_bf16(factors[i]);
  high[i] = rounded;
  low[i] = to_bf16(factors[i] - to_float(rounded));
}

// --- reduce ------------------------------------------------------------------------------------------------------------

struct ReduceArguments {
  Rows<const Bf16> x, high, low;
  Mask mask;
  Rows<float> u;             // of part 0
  std::int64_t part_stride;  // from one part's u to the next
  std::int64_t rows;
  int columns, part_columns, rank;
};

/// blockIdx: tile of rows, part of the columns, tile of 8 · kRankParts ranks.
template <int kRankParts>
__global__ void __launch_bounds__(kTileThreads) tile_reduce_kernel(ReduceArguments a) {
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kRowsOfTile + warp_index() * 16;
  const int first_rank = static_cast<int>(blockIdx.z) * kRankParts * 8;
  const int begin = static_cast<int>(blockIdx.y) * a.part_columns;
  const int end = a.columns - begin < a.part_columns ? a.columns : begin + a.part_columns;
  const std::int64_t rows[2] = {first_row + lane_row(0), first_row + lane_row(1)};
  RandomStream streams[2] = {RandomStream(Words<2>{}), RandomStream(Words<2>{})};
  BIQA_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (!a.mask.empty() && rows[half] < a.rows) streams[half] = a.mask.stream(rows[half]);
  }
  float sums[kRankParts][4];
  set_zero(sums);
  for (int chunk = begin; chunk < end; chunk += kChunkColumns) {
    const int column = chunk + lane_index() % 4 * 8;
    Octet x[2];
    BIQA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const bool there = rows[half] < a.rows && column < end;
      x[half] = load_octet(a.x[there ? rows[half] : 0] + column, there);
      if (!a.mask.empty() && there) drop(a.mask, streams[half], column, x[half]);
    }
    const std::uint32_t left[2][4] = {{x[0].pairs[0], x[1].pairs[0], x[0].pairs[1], x[1].pairs[1]},
                                      {x[0].pairs[2], x[1].pairs[2], x[0].pairs[3], x[1].pairs[3]}};
    BIQA_UNROLL
    for (int n = 0; n < kRankParts; ++n) {
      const int rank = first_rank + n * 8 + lane_index() / 4;
      if (first_rank + n * 8 >= a.rank) break;
      const bool there = rank < a.rank && column < end;
      const Octet high = load_octet(a.high[there ? rank : 0] + column, there);
      const Octet low = load_octet(a.low[there ? rank : 0] + column, there);
      BIQA_UNROLL
      for (int step = 0; step < 2; ++step) {
        mma(sums[n], left[step], high.pairs[2 * step], high.pairs[2 * step + 1]);
        mma(sums[n], left[step], low.pairs[2 * step], low.pairs[2 * step + 1]);
      }
    }
  }
  float* const part = a.u.data + blockIdx.y * a.part_stride;
  BIQA_UNROLL
  for (int n = 0; n < kRankParts; ++n) {
    BIQA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const std::int64_t row = rows[i / 2];
      const int rank = first_rank + n * 8 + lane_column() + i % 2;
      if (row < a.rows && rank < a.rank) part[row * a.u.stride + rank] = sums[n][i] * a.mask.factor;
    }
  }
}

// --- expand ------------------------------------------------------------------------------------------------------------

constexpr int kMostTerms = 3;

struct ExpandArguments {
  LowRank terms[kMostTerms];
  int count;
  Rows<float> y;
  std::int64_t rows;
  int columns;
};

/// blockIdx: tile of rows, tile of columns.
__global__ void __launch_bounds__(kTileThreads, 5) tile_expand_kernel(ExpandArguments a) {
  constexpr int kParts = kColumnsOfExpand / 8;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kRowsOfTile + warp_index() * 16;
  const int first_column = static_cast<int>(blockIdx.y) * kColumnsOfExpand;
  const auto address = [&](int n, int half) {
    const std::int64_t row = first_row + lane_row(half);
    const int column = first_column + NeighbourColumns::at<kParts>(n, lane_column());
    return row < a.rows && column < a.columns ? reinterpret_cast<FloatPair*>(a.y[row] + column) : nullptr;
  };
  FloatPair values[kParts][2];
  BIQA_UNROLL
  for (int n = 0; n < kParts; ++n) {
    BIQA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const FloatPair* const from = address(n, half);
      values[n][half] = from != nullptr ? *from : FloatPair{0.0F, 0.0F};
    }
  }
  BIQA_KEEP_LOOP
  for (int t = 0; t < a.count; ++t) {
    float sums[kParts][4];
    low_rank_sums<NeighbourColumns>(a.terms[t], first_row, a.rows, first_column, a.columns, sums);
    BIQA_UNROLL
    for (int n = 0; n < kParts; ++n) {
      BIQA_UNROLL
      for (int half = 0; half < 2; ++half) {
        if (address(n, half) == nullptr) continue;
        const FloatPair added = scaled_pair(a.terms[t], first_row + lane_row(half),
                                            first_column + NeighbourColumns::at<kParts>(n, lane_column()),
                                            sums[n][2 * half], sums[n][2 * half + 1]);
        values[n][half] = {values[n][half].low + added.low, values[n][half].high + added.high};
      }
    }
  }
  BIQA_UNROLL
  for (int n = 0; n < kParts; ++n) {
    BIQA_UNROLL
    for (int half = 0; half < 2; ++half) {
      FloatPair* const to = address(n, half);
      if (to != nullptr) *to = values[n][half];
    }
  }
}

// --- outer -------------------------------------------------------------------------------------------------------------

struct OuterArguments {
  Rows<const float> g;
  Rows<const Bf16> x;
  Mask mask;
  float* parts;  // [parts, rank, columns]
  std::int64_t rows, part_rows;
  int columns, rank;
};

constexpr int kRanksOfTile = 16;
constexpr int kInnerStride = kRanksOfTile + kChunk;  // as kRowStride

/// 64 rows of x, masked, and of g, split, in shared memory. Zeros stand for rows from `count` on and for missing columns.
struct alignas(16) OuterTile {
  Bf16 x[kRowsOfTile * kRowStride<kColumnsOfTile>];
  Bf16 high[kRowsOfTile * kInnerStride];
  Bf16 low[kRowsOfTile * kInnerStride];
};

__device__ void load_tile(OuterTile& tile, const OuterArguments& a, std::int64_t first_row, std::int64_t end,
                          int first_column, int first_rank) {
  constexpr int kOctets = kColumnsOfTile / 8;
  constexpr int kTurns = kRowsOfTile * kOctets / kTileThreads;
  Octet octets[kTurns];
  BIQA_UNROLL
  for (int turn = 0; turn < kTurns; ++turn) {
    const int i = turn * kTileThreads + thread_index();
    const std::int64_t row = first_row + i / kOctets;
    const int column = first_column + i % kOctets * 8;
    const bool there = row < end && column < a.columns;
    octets[turn] = load_octet(a.x[there ? row : 0] + (there ? column : 0), there);
    if (!a.mask.empty() && there) drop(a.mask, a.mask.stream(row), column, octets[turn]);
  }
  BIQA_UNROLL
  for (int turn = 0; turn < kTurns; ++turn) {
    const int i = turn * kTileThreads + thread_index();
    *reinterpret_cast<Octet*>(tile.x + i / kOctets * kRowStride<kColumnsOfTile> + i % kOctets * 8) =
        octets[turn];
  }
  constexpr int kPairs = kRanksOfTile / 2;
  for (int i = thread_index(); i < kRowsOfTile * kPairs; i += kTileThreads) {
    const std::int64_t row = first_row + i / kPairs;
    const int rank = first_rank + i % kPairs * 2;
    SplitPair pair{};
    if (row < end && rank < a.rank)
      pair = split_pair(a.g[row][rank], rank + 1 < a.rank ? a.g[row][rank + 1] : 0.0F);
    const int at = i / kPairs * kInnerStride + i % kPairs * 2;
    *reinterpret_cast<std::uint32_t*>(tile.high + at) = pair.high;
    *reinterpret_cast<std::uint32_t*>(tile.low + at) = pair.low;
  }
}

/// The left factor whose rows are the columns of a block [64, kInnerStride] and that sums over rows `row` … row + 15.
__device__ const Bf16* left_transposed_address(const Bf16* block, int row) {
  const int lane = lane_index();
  return block + (row + lane / 16 * 8 + lane % 8) * kInnerStride + lane / 8 % 2 * 8;
}

/// blockIdx: tile of columns, tile of ranks, part of the rows. A warp takes 16 columns.
__global__ void __launch_bounds__(kTileThreads) tile_outer_kernel(OuterArguments a) {
  OuterTile& tile = *dynamic_shared<OuterTile>();
  const int first_column = static_cast<int>(blockIdx.x) * kColumnsOfTile;
  const int first_rank = static_cast<int>(blockIdx.y) * kRanksOfTile;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.z) * a.part_rows;
  const std::int64_t end = a.rows - begin < a.part_rows ? a.rows : begin + a.part_rows;
  float sums[2][4];
  set_zero(sums);
  for (std::int64_t first = begin; first < end; first += kRowsOfTile) {
    load_tile(tile, a, first, end, first_column, first_rank);
    __syncthreads();
    BIQA_UNROLL
    for (int row = 0; row < kRowsOfTile; row += 16) {
      std::uint32_t left[4];
      std::uint32_t left_rest[4];
      std::uint32_t right[4];
      ldmatrix_transposed(left, left_transposed_address(tile.high, row));
      ldmatrix_transposed(left_rest, left_transposed_address(tile.low, row));
      ldmatrix_transposed(right, right_transposed_address<kColumnsOfTile>(tile.x, row, warp_index() * 16));
      multiply(sums[0], sums[1], left, right);
      multiply(sums[0], sums[1], left_rest, right);
    }
    __syncthreads();
  }
  float* const part = a.parts + static_cast<std::int64_t>(blockIdx.z) * a.rank * a.columns;
  BIQA_UNROLL
  for (int n = 0; n < 2; ++n) {
    BIQA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int rank = first_rank + lane_row(i / 2);
      const int column = first_column + warp_index() * 16 + n * 8 + lane_column() + i % 2;
      if (rank < a.rank && column < a.columns)
        part[static_cast<std::int64_t>(rank) * a.columns + column] = sums[n][i] * a.mask.factor;
    }
  }
}

// --- sums of parts -----------------------------------------------------------------------------------------------------

/// to[row, column] = or += scale · the parts' elements [row, column], added in order; to[column, row] if `transposed`.
__global__ void add_parts_kernel(const float* parts, int count, std::int64_t rows, int columns, float scale,
                                 bool accumulate, bool transposed, Rows<float> to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads() + thread_index();
  if (i >= rows * columns) return;
  float sum = parts[i];
  for (int part = 1; part < count; ++part) sum = sum + parts[part * rows * columns + i];
  const std::int64_t row = i / columns;
  const std::int64_t column = i % columns;
  float& target = transposed ? to[column][row] : to[row][column];
  target = accumulate ? target + scale * sum : scale * sum;
}

constexpr unsigned kElementThreads = 256;

}  // namespace

bool fits_tiles(ConstView matrix) {
  constexpr std::size_t kBytes = 16;
  const std::size_t size = size_of(matrix.type());
  return reinterpret_cast<std::uintptr_t>(matrix.address()) % kBytes == 0 &&
         static_cast<std::size_t>(matrix.stride()) * size % kBytes == 0 &&
         static_cast<std::size_t>(matrix.columns()) * size % kBytes == 0;
}

void split(ConstView factors, View high, View low, const Stream& stream) {
  CHECK(factors.stride() == factors.columns() && high.stride() == high.columns() &&
        low.stride() == low.columns() && high.size() == factors.size() && low.size() == factors.size())
      << "the factors and both halves must be dense and of one size";
  if (factors.empty()) return;
  launch(split_kernel, dim3(grid_size(tiles(factors.size(), kElementThreads))), dim3(kElementThreads), 0,
         stream, elements<float>(factors), elements<Bf16>(high), elements<Bf16>(low), factors.size());
}

void reduce(ConstView x, const SplitFactors& factors, const DropoutMask& mask, View u, Arena& arena,
            const Stream& stream) {
  const std::int64_t rank = factors.high.rows();
  CHECK(factors.high.columns() == x.columns() && u.columns() == rank && u.rows() == x.rows())
      << x.rows() << "x" << x.columns() << ", factors " << rank << "x" << factors.high.columns() << ", u "
      << u.rows() << "x" << u.columns();
  if (u.empty()) return;
  for (const ConstView matrix : {x, factors.high, factors.low}) check_fits_tiles(matrix);
  const SumParts parts = reduce_parts(x.columns());
  const Arena::Scope scope(arena);
  const bool whole = parts.count == 1;
  const View sums = whole ? u : take_reduce_sums(x.rows(), x.columns(), rank, arena);
  const ReduceArguments a{rows_of<Bf16>(x),
                          rows_of<Bf16>(factors.high),
                          rows_of<Bf16>(factors.low),
                          mask_of(mask, x.rows()),
                          rows_of<float>(sums),
                          x.rows() * rank,
                          x.rows(),
                          static_cast<int>(x.columns()),
                          static_cast<int>(parts.size),
                          static_cast<int>(rank)};
  constexpr int kFew = 2;
  constexpr int kMany = 8;
  const bool few = rank <= kFew * 8;
  const dim3 grid(grid_size(tiles(x.rows(), kRowsOfTile)), small_grid_size(parts.count),
                  small_grid_size(tiles(rank, (few ? kFew : kMany) * 8)));
  launch(few ? tile_reduce_kernel<kFew> : tile_reduce_kernel<kMany>, grid, dim3(kTileThreads), 0, stream, a);
  if (whole) return;
  launch(add_parts_kernel, dim3(grid_size(tiles(u.size(), kElementThreads))), dim3(kElementThreads), 0,
         stream, elements<float>(ConstView(sums)), static_cast<int>(parts.count), x.rows(),
         static_cast<int>(rank), 1.0F, false, false, rows_of<float>(u));
}

void expand(std::span<const LowRankTerm> terms, View y, const Stream& stream) {
  CHECK(terms.size() <= kMostTerms) << terms.size() << " terms";
  if (y.empty()) return;
  check_fits_tiles(y);
  ExpandArguments a{};
  a.y = rows_of<float>(y);
  a.rows = y.rows();
  a.columns = static_cast<int>(y.columns());
  for (const LowRankTerm& term : terms) {
    if (term.u.empty()) continue;
    check_low_rank(term, y.rows(), y.columns());
    a.terms[a.count++] = low_rank_of(term, y.rows());
  }
  if (a.count == 0) return;
  const dim3 grid(grid_size(tiles(y.rows(), kRowsOfTile)),
                  small_grid_size(tiles(y.columns(), kColumnsOfExpand)));
  launch(tile_expand_kernel, grid, dim3(kTileThreads), 0, stream, a);
}

void outer(ConstView g, ConstView x, const DropoutMask& mask, float scale, bool transposed, View target,
           Arena& arena, const Stream& stream) {
  const std::int64_t rank = transposed ? target.columns() : target.rows();
  const std::int64_t columns = transposed ? target.rows() : target.columns();
  CHECK(g.rows() == x.rows() && g.columns() == rank && x.columns() == columns)
      << "g " << g.rows() << "x" << g.columns() << ", x " << x.rows() << "x" << x.columns() << ", target "
      << target.rows() << "x" << target.columns();
  if (g.empty() || x.empty()) return;
  check_fits_tiles(x);
  const SumParts parts = outer_parts(x.rows());
  const Arena::Scope scope(arena);
  const View sums = take_outer_sums(x.rows(), columns, rank, arena);
  const OuterArguments a{
      rows_of<float>(g), rows_of<Bf16>(x), mask_of(mask, x.rows()),   elements<float>(sums),
      x.rows(),          parts.size,       static_cast<int>(columns), static_cast<int>(rank)};
  const dim3 grid(grid_size(tiles(columns, kColumnsOfTile)), small_grid_size(tiles(rank, kRanksOfTile)),
                  small_grid_size(parts.count));
  launch(tile_outer_kernel, grid, dim3(kTileThreads), sizeof(OuterTile), stream, a);
  launch(add_parts_kernel, dim3(grid_size(tiles(rank * columns, kElementThreads))), dim3(kElementThreads), 0,
         stream, elements<float>(ConstView(sums)), static_cast<int>(parts.count), rank,
         static_cast<int>(columns), scale, true, transposed, rows_of<float>(target));
}

}  // namespace biqa::cuda
