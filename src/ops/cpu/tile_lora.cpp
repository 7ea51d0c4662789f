// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/tile_lora.h"

#include <algorithm>

namespace biqa::cpu {
namespace {

struct Split {
  explicit Split(float value) : high(to_bf16(value)), low(to_bf16(value - to_float(high))) {}
  Bf16 high, low;
};

std::int64_t steps_of(std::int64_t inner) {
  return (inner + TileLayout::kStep - 1) / TileLayout::kStep * TileLayout::kStep;
}

Tensor packed(const Tensor& weight, const TileLayout& layout) {
  Tensor to(DType::bf16, 1, layout.elements(), "adapter");
  pack_tiles(weight.view(), true, layout, to.row<Bf16>(0));
  return to;
}

}  // namespace

SplitReduce::SplitReduce(const float* matrix, std::int64_t rank, std::int64_t width)
    : rank_(rank), layout_(width, steps_of(2 * rank)) {
  CHECK(splits(width)) << width;
  Tensor rows(DType::bf16, layout_.columns, width, "adapter");
  rows.zero();
  for (std::int64_t r = 0; r < rank; ++r) {
    for (std::int64_t i = 0; i < width; ++i) {
      const Split split(matrix[r * width + i]);
      rows.row<Bf16>(r)[i] = split.high;
      rows.row<Bf16>(rank + r)[i] = split.low;
    }
  }
  packed_ = packed(rows, layout_);
}

std::int64_t SplitReduce::scratch(std::int64_t rank, std::int64_t rows) {
  return kTileScratch + rows * steps_of(2 * rank);
}

void SplitReduce::multiply(TileKernel kernel, const Bf16* x, std::int64_t x_stride, std::int64_t rows,
                           float factor, float* u, std::int64_t u_stride, float* scratch) const {
  float* parts = scratch + kTileScratch;
  TileProduct product;
  product.layout = &layout_;
  product.packed = packed_.row<Bf16>(0);
  product.x = x;
  product.x_stride = x_stride;
  product.rows = rows;
  product.y = parts;
  product.y_stride = layout_.columns;
  kernel(product, 0, 1, scratch);
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* high = parts + row * layout_.columns;
    for (std::int64_t r = 0; r < rank_; ++r) u[row * u_stride + r] = factor * (high[r] + high[rank_ + r]);
  }
}

SplitExpand::SplitExpand(const float* matrix, std::int64_t rank, std::int64_t width)
    : rank_(rank), layout_(steps_of(3 * rank), width) {
  CHECK(splits(width)) << width;
  Tensor rows(DType::bf16, width, layout_.inner, "adapter");  // transposed
  rows.zero();
  for (std::int64_t i = 0; i < width; ++i) {
    Bf16* row = rows.row<Bf16>(i);
    for (std::int64_t r = 0; r < rank; ++r) {
      const Split split(matrix[r * width + i]);
      row[r] = row[2 * rank + r] = split.high;
      row[rank + r] = split.low;
    }
  }
  packed_ = packed(rows, layout_);
}

std::int64_t SplitExpand::scratch(std::int64_t rank, std::int64_t rows) {
  return kTileScratch + rows * steps_of(3 * rank) / 2;
}

void SplitExpand::add(TileKernel kernel, const float* u, std::int64_t u_stride, std::int64_t rows, float* y,
                      std::int64_t y_stride, float* scratch) const {
  auto* parts = reinterpret_cast<Bf16*>(scratch + kTileScratch);
  std::fill_n(parts, rows * layout_.inner, Bf16{});
  for (std::int64_t row = 0; row < rows; ++row) {
    Bf16* to = parts + row * layout_.inner;
    for (std::int64_t r = 0; r < rank_; ++r) {
      const Split split(u[row * u_stride + r]);
      to[r] = to[rank_ + r] = split.high;
      to[2 * rank_ + r] = split.low;
    }
  }
  TileProduct product;
  product.layout = &layout_;
  product.packed = packed_.row<Bf16>(0);
  product.x = parts;
  product.x_stride = layout_.inner;
  product.rows = rows;
  product.y = y;
  product.y_stride = y_stride;
  product.accumulate = product.from_y = true;
  kernel(product, 0, 1, scratch);
}

void SplitColumns::write(const float* u, std::int64_t u_stride, std::int64_t rank, std::int64_t rows,
                         std::int64_t first, std::int64_t count, Bf16* columns) {
  const std::int64_t width = stride(rows);
  const std::int64_t end = first + count == rows ? width : first + count;
  for (std::int64_t r = 0; r < rank; ++r) {
    Bf16* high = columns + r * width;
    Bf16* low = columns + (rank + r) * width;
    for (std::int64_t i = 0; i < count; ++i) {
      const Split split(u[i * u_stride + r]);
      high[first + i] = split.high;
      low[first + i] = split.low;
    }
    std::fill(high + first + count, high + end, Bf16{});
    std::fill(low + first + count, low + end, Bf16{});
  }
  for (std::int64_t r = 2 * rank; r < tiles(rank) * 16; ++r)
    std::fill(columns + r * width + first, columns + r * width + end, Bf16{});
}

}  // namespace biqa::cpu
