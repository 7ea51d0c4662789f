// SPDX-License-Identifier: Apache-2.0
// Each thread adds its part of an output's terms in order. Then the parts are added in a fixed order. A thread computes
// a small tile of rows and ranks together, so that a factor or an input that it has read serves several sums. The tiles
// do not change the order of any sum.
#include "ops/cuda/lora.h"

#include "ops/cuda/dropout_mask.h"

namespace biqa::cuda {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileRanks = 8;
constexpr int kTileOutputs = kTileRows * kTileRanks;
constexpr int kMaxThreads = 256;

/// Sums kTileOutputs values of every thread over the block. Lane o of the first warp gets the sum of sums[o]. Within a
/// warp the lanes are added in order, then the warps. `scratch` holds kTileOutputs · (threads + 1) + threads floats.
__device__ float sum_tile(const float (&sums)[kTileOutputs], float* scratch) {
  const int warp = thread_index() / kWarpSize;
  const int lane = thread_index() % kWarpSize;
  const int stride = block_threads() + 1;  // odd: the lanes that read a column below use different banks
  for (int o = 0; o < kTileOutputs; ++o) scratch[o * stride + thread_index()] = sums[o];
  __syncwarp();
  float sum = 0.0F;
  for (int i = 0; i < kWarpSize; ++i) sum += scratch[lane * stride + warp * kWarpSize + i];
  float* of_warps = scratch + kTileOutputs * stride;
  of_warps[thread_index()] = sum;
  __syncthreads();
  if (warp != 0) return 0.0F;
  sum = 0.0F;
  for (int w = 0; w < block_threads() / kWarpSize; ++w) sum += of_warps[w * kWarpSize + lane];
  return sum;
}
static_assert(kTileOutputs == kWarpSize);

std::size_t sum_tile_bytes(int threads) {
  return static_cast<std::size_t>(kTileOutputs * (threads + 1) + threads) * sizeof(float);
}

/// A block takes kTileRows rows (blockIdx.x) and kTileRanks ranks (blockIdx.y); its threads take the columns by fours.
template <typename Input>
__global__ void reduce_kernel(Rows<const Input> x, Rows<const float> factors, Mask mask, Rows<float> u,
                              std::int64_t rows, int columns, int rank) {
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kTileRows;
  const int first_rank = static_cast<int>(blockIdx.y) * kTileRanks;
  const int tile_rows = rows - first_row < kTileRows ? static_cast<int>(rows - first_row) : kTileRows;
  const int tile_ranks = rank - first_rank < kTileRanks ? rank - first_rank : kTileRanks;
  Words<2> keys[kTileRows] = {};
  for (int r = 0; r < kTileRows; ++r) {
    if (!mask.empty() && r < tile_rows) keys[r] = mask.stream(first_row + r).key();
  }
  float sums[kTileOutputs] = {};
  for (int c = thread_index() * kQuad; c < columns; c += block_threads() * kQuad) {
    Quad<float> a[kTileRanks] = {};
    for (int k = 0; k < kTileRanks; ++k) {
      if (k < tile_ranks) a[k] = load_quad(factors[first_rank + k] + c, columns - c);
    }
    for (int r = 0; r < kTileRows; ++r) {
      if (r >= tile_rows) break;
      Quad<float> v = load_quad(x[first_row + r] + c, columns - c);
      if (!mask.empty()) mask.apply(RandomStream(keys[r]), c, v);
      for (int k = 0; k < kTileRanks; ++k) {
        float& sum = sums[r * kTileRanks + k];
        for (int i = 0; i < kQuad; ++i) sum = fmaf(v.values[i], a[k].values[i], sum);
      }
    }
  }
  const float sum = sum_tile(sums, dynamic_shared<float>());
  const int r = thread_index() / kTileRanks;
  const int k = thread_index() % kTileRanks;
  if (r < tile_rows && k < tile_ranks) u[first_row + r][first_rank + k] = sum;
}

/// A thread takes kTileRows rows (blockIdx.x) and four columns.
__global__ void expand_kernel(Rows<const float> u, Rows<const float> factors, float scale, Mask mask,
                              Rows<float> y, std::int64_t rows, int columns, int rank) {
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kTileRows;
  const int c = (static_cast<int>(blockIdx.y) * block_threads() + thread_index()) * kQuad;
  if (c >= columns) return;
  const int tile_rows = rows - first_row < kTileRows ? static_cast<int>(rows - first_row) : kTileRows;
  Quad<float> sums[kTileRows] = {};
  for (int k = 0; k < rank; ++k) {
    const Quad<float> b = load_quad(factors[k] + c, columns - c);
    for (int r = 0; r < kTileRows; ++r) {
      if (r >= tile_rows) break;
      const float inner = u[first_row + r][k];
      for (int i = 0; i < kQuad; ++i) sums[r].values[i] = fmaf(inner, b.values[i], sums[r].values[i]);
    }
  }
  for (int r = 0; r < kTileRows; ++r) {
    if (r >= tile_rows) break;
    for (int i = 0; i < kQuad; ++i) sums[r].values[i] *= scale;
    if (!mask.empty()) mask.apply(mask.stream(first_row + r), c, sums[r]);
    float* to = y[first_row + r] + c;
    Quad<float> v = load_quad(to, columns - c);
    for (int i = 0; i < kQuad; ++i) v.values[i] += sums[r].values[i];
    store_quad(to, columns - c, v);
  }
}

/// A block takes 4 · 32 columns (blockIdx.x) and kTileRanks ranks (blockIdx.y). Its warps take equal parts of the rows, which
/// are added in order.
template <typename Input>
__global__ void outer_kernel(Rows<const float> g, Rows<const Input> x, Mask mask, float scale,
                             bool transposed, Rows<float> target, std::int64_t rows, int columns, int rank) {
  const int warp = thread_index() / kWarpSize;
  const int warps = block_threads() / kWarpSize;
  const int lane = thread_index() % kWarpSize;
  const int c = (static_cast<int>(blockIdx.x) * kWarpSize + lane) * kQuad;
  const int first_rank = static_cast<int>(blockIdx.y) * kTileRanks;
  const int tile_ranks = rank - first_rank < kTileRanks ? rank - first_rank : kTileRanks;
  const std::int64_t part = (rows + warps - 1) / warps;
  const std::int64_t begin = warp * part;
  const std::int64_t end = begin + part < rows ? begin + part : rows;
  Quad<float> sums[kTileRanks] = {};
  for (std::int64_t t = begin; t < end && c < columns; ++t) {
    Quad<float> v = load_quad(x[t] + c, columns - c);
    if (!mask.empty()) mask.apply(mask.stream(t), c, v);
    for (int k = 0; k < kTileRanks; ++k) {
      if (k >= tile_ranks) break;
      const float factor = g[t][first_rank + k];
      for (int i = 0; i < kQuad; ++i) sums[k].values[i] = fmaf(factor, v.values[i], sums[k].values[i]);
    }
  }
  auto* tile = dynamic_shared<float>();  // [kTileRanks · 4, 32]
  for (int turn = 0; turn < warps; ++turn) {
    if (turn == warp) {
      for (int o = 0; o < kTileRanks * kQuad; ++o) {
        float& sum = tile[o * kWarpSize + lane];
        const float own = sums[o / kQuad].values[o % kQuad];
        sum = turn == 0 ? own : sum + own;
      }
    }
    __syncthreads();
  }
  for (int o = warp; o < kTileRanks * kQuad; o += warps) {
    const int r = first_rank + o / kQuad;
    const int column = c + o % kQuad;
    if (r >= rank || column >= columns) continue;
    float& to = transposed ? target[column][r] : target[r][column];
    to += scale * tile[o * kWarpSize + lane];
  }
}

/// A size of a grid in its second dimension.
unsigned grid_size_y(std::int64_t blocks) {
  constexpr std::int64_t kMost = 65535;
  CHECK(blocks > 0 && blocks <= kMost) << blocks << " blocks";
  return static_cast<unsigned>(blocks);
}
std::int64_t tiles(std::int64_t size, std::int64_t tile) {
  return (size + tile - 1) / tile;
}
int checked_columns(ConstView x) {
  CHECK(x.columns() <= std::numeric_limits<std::int32_t>::max() / 2) << x.columns() << " columns";
  return static_cast<int>(x.columns());
}

}  // namespace

void reduce(ConstView x, ConstView factors, const DropoutMask& mask, View u, const Stream& stream) {
  CHECK(factors.columns() == x.columns() && u.columns() == factors.rows() && u.rows() == x.rows())
      << x.rows() << "x" << x.columns() << ", factors " << factors.rows() << "x" << factors.columns()
      << ", u " << u.rows() << "x" << u.columns();
  if (u.empty()) return;
  const int threads = threads_for(x.columns(), kMaxThreads);
  const dim3 grid(grid_size(tiles(x.rows(), kTileRows)), grid_size_y(tiles(factors.rows(), kTileRanks)));
  with_float_type(x.type(), [&](auto zero) {
    using Input = decltype(zero);
    launch(reduce_kernel<Input>, grid, dim3(static_cast<unsigned>(threads)), sum_tile_bytes(threads), stream,
           rows_of<Input>(x), rows_of<float>(factors), mask_of(mask, x.rows()), rows_of<float>(u), x.rows(),
           checked_columns(x), static_cast<int>(factors.rows()));
  });
}

void expand(ConstView u, ConstView factors, float scale, const DropoutMask& mask, View y,
            const Stream& stream) {
  CHECK(u.columns() == factors.rows() && factors.columns() == y.columns() && u.rows() == y.rows())
      << "u " << u.rows() << "x" << u.columns() << ", factors " << factors.rows() << "x" << factors.columns()
      << ", y " << y.rows() << "x" << y.columns();
  if (y.empty() || u.empty()) return;
  const int threads = threads_for(y.columns(), kMaxThreads);
  const dim3 grid(grid_size(tiles(y.rows(), kTileRows)),
                  grid_size_y(tiles(y.columns(), std::int64_t{threads} * kQuad)));
  launch(expand_kernel, grid, dim3(static_cast<unsigned>(threads)), 0, stream, rows_of<float>(u),
         rows_of<float>(factors), scale, mask_of(mask, y.rows()), rows_of<float>(y), y.rows(),
         checked_columns(y), static_cast<int>(u.columns()));
}

void outer(ConstView g, ConstView x, const DropoutMask& mask, float scale, bool transposed, View target,
           const Stream& stream) {
  const std::int64_t ranks = transposed ? target.columns() : target.rows();
  const std::int64_t columns = transposed ? target.rows() : target.columns();
  CHECK(g.rows() == x.rows() && g.columns() == ranks && x.columns() == columns)
      << "g " << g.rows() << "x" << g.columns() << ", x " << x.rows() << "x" << x.columns() << ", target "
      << target.rows() << "x" << target.columns();
  if (g.empty() || x.empty()) return;
  constexpr std::int64_t kRowsOfWarp = 64;  // at least, so that a short sum takes few barriers
  constexpr std::int64_t kMaxWarps = 16;
  const std::int64_t warps = std::min(tiles(x.rows(), kRowsOfWarp), kMaxWarps);
  const dim3 grid(grid_size(tiles(columns, kWarpSize * kQuad)), grid_size_y(tiles(ranks, kTileRanks)));
  constexpr std::size_t kTileBytes = sizeof(float) * kTileRanks * kQuad * kWarpSize;
  with_float_type(x.type(), [&](auto zero) {
    using Input = decltype(zero);
    launch(outer_kernel<Input>, grid, dim3(static_cast<unsigned>(warps * kWarpSize)), kTileBytes, stream,
           rows_of<float>(g), rows_of<Input>(x), mask_of(mask, x.rows()), scale, transposed,
           rows_of<float>(target), x.rows(), checked_columns(x), static_cast<int>(ranks));
  });
}

}  // namespace biqa::cuda
