// SPDX-License-Identifier: Apache-2.0
// Each block transposes a tile in shared memory, so that reads and writes both run along rows.
#include "ops/cuda/transpose.h"

#include "ops/cuda/launch.h"

namespace biqa::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kRowsPerTurn = 8;

__global__ void transpose_kernel(const float* x, std::int64_t x_stride, std::int64_t rows,
                                 std::int64_t columns, float* y, std::int64_t y_stride) {
  float* tile = dynamic_shared<float>();  // [kTile, kTile + 1]: columns in different banks
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t first_column = static_cast<std::int64_t>(blockIdx.y) * kTile;
  const int lane = static_cast<int>(threadIdx.x);
  for (int r = static_cast<int>(threadIdx.y); r < kTile; r += kRowsPerTurn) {
    if (first_row + r < rows && first_column + lane < columns) {
      tile[r * (kTile + 1) + lane] = x[(first_row + r) * x_stride + first_column + lane];
    }
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.y); c < kTile; c += kRowsPerTurn) {
    if (first_column + c < columns && first_row + lane < rows) {
      y[(first_column + c) * y_stride + first_row + lane] = tile[lane * (kTile + 1) + c];
    }
  }
}

unsigned tiles(std::int64_t count) {
  return static_cast<unsigned>((count + kTile - 1) / kTile);
}

}  // namespace

void transpose(ConstView x, View y, const Stream& stream) {
  CHECK(x.rows() == y.columns() && x.columns() == y.rows()) << x.rows() << "x" << x.columns();
  if (x.empty()) return;
  launch(transpose_kernel, dim3(tiles(x.rows()), tiles(x.columns())), dim3(kTile, kRowsPerTurn),
         kTile * (kTile + 1) * sizeof(float), stream, elements<float>(x), x.stride(), x.rows(), x.columns(),
         elements<float>(y), y.stride());
}

}  // namespace biqa::cuda
