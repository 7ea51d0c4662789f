// SPDX-License-Identifier: Apache-2.0
// The tile product. The template parameter `Tiles` stands for the tile registers of the processor or for simulated
// ones.
//
// A block of y is 32 rows × 32 columns in four tiles:   0 1 |  rows 0–15      x: tile 4 (rows 0–15), 5 (rows 16–31)
//                                                       2 3 |  rows 16–31     B: tile 6 (columns 0–15), 7 (16–31)
// x is read in place. Between two chunks of the inner width, the scratch holds the sums.
#pragma once

#include <algorithm>
#include <cstring>

#include "ops/cpu/part.h"
#include "ops/cpu/tile_product.h"
#include "ops/cpu/tile_shapes.h"

namespace biqa::cpu {
namespace {

template <typename Tiles>
class TileWork {
 public:
  TileWork(const TileProduct& product, float* scratch)
      : product_(product), layout_(*product.layout), sums_(scratch), finished_(scratch + kFinished) {}

  void run(const Part& share) {
    // The scratch keeps the sums of a group of rows between chunks. With a single chunk nothing is kept, so groups can
    // be larger and the weights are read less often.
    constexpr std::int64_t kUnchunkedRows = 1024;
    const std::int64_t group = layout_.chunk_steps < layout_.steps ? kTileGroupRows : kUnchunkedRows;
    for (std::int64_t row = share.first_row; row < share.end_row; row += group) {
      const std::int64_t rows = std::min(group, share.end_row - row);
      constexpr std::int64_t kPanel = TileLayout::kPanelBlocks;
      for (std::int64_t block = share.first_column; block < share.end_column;) {
        const std::int64_t panel = block / kPanel * kPanel;
        const std::int64_t end = std::min(panel + kPanel, share.end_column);
        run_panel(panel, block, end, row, rows);
        block = end;
      }
    }
    Tiles::release();
  }

 private:
  static constexpr std::int64_t kFinished = kTileGroupRows * TileLayout::kPanelBlocks * TileLayout::kBlock;
  static constexpr std::int64_t kTile = 16 * 16;           // f32 elements
  static constexpr std::int64_t kTilePairs = 16 * 16 * 2;  // bf16 elements
  static constexpr std::int64_t kTileBytes = 64;           // bytes of a tile's row

  /// The rows of x in one chunk. `last` is the padded last step of TileProduct, or null.
  struct Rows {
    const Bf16* x;
    const Bf16* last;
    std::int64_t count;
  };
  struct Chunk {
    std::int64_t first_step, steps;
    bool first, last;
  };

  /// Tiles 0, 1 and 4 have the rows 0 to 15 of a block. Tiles 2, 3 and 5 have the rows from 16 on.
  static void configure(std::int64_t rows) {
    TileShapes shapes;
    for (const int tile : {0, 1, 4}) shapes.set(tile, std::min<std::int64_t>(16, rows), kTileBytes);
    for (const int tile : {2, 3, 5}) shapes.set(tile, std::max<std::int64_t>(0, rows - 16), kTileBytes);
    for (const int tile : {6, 7}) shapes.set(tile, 16, kTileBytes);
    Tiles::configure(shapes);
  }

  void run_panel(std::int64_t panel, std::int64_t first_block, std::int64_t end_block, std::int64_t first_row,
                 std::int64_t rows) {
    const std::int64_t panel_blocks = std::min(TileLayout::kPanelBlocks, layout_.blocks - panel);
    const Bf16* packed = product_.packed + panel * layout_.steps * TileLayout::kStepElements;
    for (std::int64_t step = 0; step < layout_.steps; step += layout_.chunk_steps) {
      const std::int64_t steps = std::min(layout_.chunk_steps, layout_.steps - step);
      const Chunk chunk{step, steps, step == 0, step + steps == layout_.steps};
      const std::int64_t block_elements = steps * TileLayout::kStepElements;
      std::int64_t configured = 0;
      for (std::int64_t row = 0; row < rows; row += 32) {
        const std::int64_t count = std::min<std::int64_t>(32, rows - row);
        if (count != configured) configure(count);
        configured = count;
        const std::int64_t at = first_row + row;
        const Rows source{
            product_.x + at * product_.x_stride + step * TileLayout::kStep,
            product_.last_step == nullptr ? nullptr : product_.last_step + at * TileLayout::kStep, count};
        for (std::int64_t block = first_block; block < end_block; ++block) {
          const Bf16* b = packed + (block - panel) * block_elements;
          float* sums = sums_ + (row * TileLayout::kPanelBlocks + (block - panel) * 32) * 32;
          if (count > 16)
            run_block<true>(source, b, chunk, sums, at, block);
          else
            run_block<false>(source, b, chunk, sums, at, block);
        }
      }
      packed += panel_blocks * block_elements;
    }
  }

  template <bool kBoth>
  [[gnu::always_inline]] void run_block(const Rows& rows, const Bf16* b, const Chunk& chunk, float* sums,
                                        std::int64_t row, std::int64_t block) {
    float* y = product_.y + row * product_.y_stride + block * 32;
    const std::int64_t columns = std::min<std::int64_t>(32, layout_.columns - block * 32);
    const bool from_y = product_.from_y && columns == 32;
    if (!chunk.first) {
      load<kBoth>(sums, kTileBytes, kTile);
    } else if (from_y) {
      const std::int64_t y_bytes = product_.y_stride * 4;
      Tiles::template load<0>(y, y_bytes);
      Tiles::template load<1>(y + 16, y_bytes);
      if (kBoth) {
        Tiles::template load<2>(y + 16 * product_.y_stride, y_bytes);
        Tiles::template load<3>(y + 16 * product_.y_stride + 16, y_bytes);
      }
    } else if (product_.bias != nullptr) {
      load<kBoth>(product_.bias + block * 32, 0, 0);  // stride 0 loads the same row sixteen times
    } else {
      Tiles::template zero<0>();
      Tiles::template zero<1>();
      if (kBoth) {
        Tiles::template zero<2>();
        Tiles::template zero<3>();
      }
    }
    const bool partial = chunk.last && rows.last != nullptr;
    const std::int64_t whole = chunk.steps - (partial ? 1 : 0);
    const std::int64_t stride = product_.x_stride * 2;
    const Bf16* upper = rows.x;
    const Bf16* lower = rows.x + 16 * product_.x_stride;
    for (std::int64_t step = 0; step < whole; ++step) {
      run_step<kBoth>(upper, lower, stride, b);
      upper += TileLayout::kStep;
      lower += TileLayout::kStep;
      b += TileLayout::kStepElements;
    }
    if (partial) run_step<kBoth>(rows.last, rows.last + 16 * TileLayout::kStep, kTileBytes, b);

    if (!chunk.last) {
      store<kBoth>(sums, kTileBytes, kTile);
      return;
    }
    if (columns == 32 && (from_y || !product_.accumulate)) {
      Tiles::template store<0>(y, product_.y_stride * 4);
      Tiles::template store<1>(y + 16, product_.y_stride * 4);
      if (kBoth) {
        Tiles::template store<2>(y + 16 * product_.y_stride, product_.y_stride * 4);
        Tiles::template store<3>(y + 16 * product_.y_stride + 16, product_.y_stride * 4);
      }
      return;
    }
    store<kBoth>(finished_, kTileBytes, kTile);
    finish(y, rows.count, columns);
  }

  template <bool kBoth>
  [[gnu::always_inline]] static void run_step(const Bf16* upper, const Bf16* lower, std::int64_t stride,
                                              const Bf16* b) {
    Tiles::template load<4>(upper, stride);
    Tiles::template load<6>(b, kTileBytes);
    Tiles::template multiply<0, 4, 6>();
    Tiles::template load<7>(b + kTilePairs, kTileBytes);
    Tiles::template multiply<1, 4, 7>();
    if (kBoth) {
      Tiles::template load<5>(lower, stride);
      Tiles::template multiply<2, 5, 6>();
      Tiles::template multiply<3, 5, 7>();
    }
    Tiles::prefetch(b + TileLayout::kStepElements, TileLayout::kStepElements * 2);
  }

  template <bool kBoth>
  [[gnu::always_inline]] static void load(const float* from, std::int64_t stride, std::int64_t tile) {
    const std::int64_t right = tile == 0 ? 16 : tile;
    Tiles::template load<0>(from, stride);
    Tiles::template load<1>(from + right, stride);
    if (kBoth) {
      Tiles::template load<2>(from + 2 * tile, stride);
      Tiles::template load<3>(from + 2 * tile + right, stride);
    }
  }
  template <bool kBoth>
  [[gnu::always_inline]] static void store(float* to, std::int64_t stride, std::int64_t tile) {
    Tiles::template store<0>(to, stride);
    Tiles::template store<1>(to + tile, stride);
    if (kBoth) {
      Tiles::template store<2>(to + 2 * tile, stride);
      Tiles::template store<3>(to + 3 * tile, stride);
    }
  }

  /// Copies the finished block to y, or adds it.
  void finish(float* y, std::int64_t rows, std::int64_t columns) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      float* target = y + r * product_.y_stride;
      for (std::int64_t half = 0; half * 16 < columns; ++half) {
        const float* sums = finished_ + (r / 16 * 2 + half) * kTile + r % 16 * 16;
        const std::int64_t count = std::min<std::int64_t>(16, columns - half * 16);
        if (!product_.accumulate) {
          std::memcpy(target + half * 16, sums, static_cast<std::size_t>(count) * sizeof(float));
        } else if (count == 16) {
          add(target + half * 16, sums);
        } else {
          for (std::int64_t c = 0; c < count; ++c) target[half * 16 + c] += sums[c];
        }
      }
    }
  }
  static void add(float* target, const float* sums) {
    using Floats = float __attribute__((vector_size(64)));
    Floats a, b;
    std::memcpy(&a, target, sizeof a);
    std::memcpy(&b, sums, sizeof b);
    a += b;
    std::memcpy(target, &a, sizeof a);
  }

  const TileProduct& product_;
  const TileLayout& layout_;
  float* sums_;
  float* finished_;
};

template <typename Tiles>
void run_tile_part(const TileProduct& product, std::int64_t part, std::int64_t parts, float* scratch) {
  const Part share = part_of(product.rows, TileLayout::kBlock, product.layout->blocks, part, parts);
  if (share.first_row < share.end_row && share.first_column < share.end_column)
    TileWork<Tiles>(product, scratch).run(share);
}

}  // namespace
}  // namespace biqa::cpu
