// SPDX-License-Identifier: Apache-2.0
// An adapter's products on tile registers. A number f in f32 is split into high + low in bf16: high is f
// rounded, and low is f − high rounded. So the products keep 16 bits of a factor. All sums are f32.
#pragma once

#include <cstdint>

#include "ops/cpu/kernels.h"
#include "ops/cpu/tile_product.h"
#include "tensor/tensor.h"

namespace biqa::cpu {

/// A matrix [rank, width] in f32, split and packed for u = x · Mᵀ with x in bf16.
class SplitReduce {
 public:
  SplitReduce(const float* matrix, std::int64_t rank, std::int64_t width);
  /// Working memory of a product, in floats.
  static std::int64_t scratch(std::int64_t rank, std::int64_t rows);
  /// u [rows, rank], `u_stride` apart, = factor · x [rows, width] · Mᵀ.
  void multiply(TileKernel kernel, const Bf16* x, std::int64_t x_stride, std::int64_t rows, float factor,
                float* u, std::int64_t u_stride, float* scratch) const;

 private:
  std::int64_t rank_;
  TileLayout layout_;  // columns: high parts, low parts, zeros
  Tensor packed_;
};

/// A matrix [rank, width] in f32, split and packed for y += u · M with u in f32, which is split too. The product of the two low
/// parts is left out.
class SplitExpand {
 public:
  SplitExpand(const float* matrix, std::int64_t rank, std::int64_t width);
  static std::int64_t scratch(std::int64_t rank, std::int64_t rows);
  /// y [rows, width], `y_stride` apart, += u [rows, rank] · M.
  void add(TileKernel kernel, const float* u, std::int64_t u_stride, std::int64_t rows, float* y,
           std::int64_t y_stride, float* scratch) const;

 private:
  std::int64_t rank_;
  TileLayout layout_;  // along the inner width, u = [high, high, low] meets M = [high, low, high]
  Tensor packed_;
};

/// Whether both kinds of products accept this width.
inline bool splits(std::int64_t width) {
  return width % TileLayout::kStep == 0;
}

/// The transposed split of u [rows, rank]: rows of high parts, then of low parts, then zeros.
struct SplitColumns {
  static std::int64_t tiles(std::int64_t rank) { return (2 * rank + 15) / 16; }
  static std::int64_t stride(std::int64_t rows) { return (rows + 31) / 32 * 32; }
  static std::int64_t elements(std::int64_t rank, std::int64_t rows) {
    return tiles(rank) * 16 * stride(rows);
  }
  /// Writes the columns that belong to the rows [first, first + count) of u. `u` points to the first of these rows.
  static void write(const float* u, std::int64_t u_stride, std::int64_t rank, std::int64_t rows,
                    std::int64_t first, std::int64_t count, Bf16* columns);
};

/// sum [rank, 32] = uᵀ · x for 32 columns of x, in steps of 32 rows.
struct SplitOuter {
  const Bf16* columns;  ///< SplitColumns of u
  std::int64_t rank, rows;
  const Bf16* x;  ///< [rows, 32], `x_stride` apart
  std::int64_t x_stride;
  float* sum;      ///< [rank, 32]
  float* scratch;  ///< kOuterScratch floats, aligned to 64 bytes
};
inline constexpr std::int64_t kOuterScratch = 2 * 256 + 4 * 256;
using SplitOuterKernel = void (*)(const SplitOuter& product, const Kernels& kernels);

}  // namespace biqa::cpu
