// SPDX-License-Identifier: Apache-2.0
// uᵀ · x on tile registers; `Tiles` as in tile_kernel_impl.h.
#pragma once

#include <algorithm>

#include "ops/cpu/tile_lora.h"
#include "ops/cpu/tile_shapes.h"

namespace biqa::cpu {
namespace {

/// Adds the products of two tiles of u, in tiles 4 and 5, and two tiles of x, in tiles 6 and 7. The sums are in tiles 0
/// to 3. The tiles of x hold pairs of rows.
template <typename Tiles, bool kTwo>
void add_outer_steps(const SplitOuter& p, std::int64_t tile, const Kernels& k, std::uint32_t* pairs) {
  const std::int64_t width = SplitColumns::stride(p.rows);
  const Bf16* upper = p.columns + tile * 16 * width;
  Tiles::template zero<0>();
  Tiles::template zero<1>();
  Tiles::template zero<2>();
  Tiles::template zero<3>();
  for (std::int64_t row = 0; row < p.rows; row += 32) {
    k.pair_rows(reinterpret_cast<const std::uint16_t*>(p.x + row * p.x_stride), p.x_stride,
                std::min<std::int64_t>(32, p.rows - row), pairs);
    Tiles::template load<6>(pairs, 64);
    Tiles::template load<7>(pairs + 256, 64);
    Tiles::template load<4>(upper + row, width * 2);
    Tiles::template multiply<0, 4, 6>();
    Tiles::template multiply<1, 4, 7>();
    if (kTwo) {
      Tiles::template load<5>(upper + 16 * width + row, width * 2);
      Tiles::template multiply<2, 5, 6>();
      Tiles::template multiply<3, 5, 7>();
    }
  }
}

template <typename Tiles>
void split_outer(const SplitOuter& p, const Kernels& k) {
  auto* pairs = reinterpret_cast<std::uint32_t*>(p.scratch);
  float* sums = p.scratch + 2 * 256;  // [2 tiles, 16, 32]
  TileShapes whole;
  for (int tile = 0; tile < 8; ++tile) whole.set(tile, 16, 64);
  Tiles::configure(whole);
  std::fill_n(p.sum, p.rank * 32, 0.0F);
  const std::int64_t tiles = SplitColumns::tiles(p.rank);
  for (std::int64_t tile = 0; tile < tiles; tile += 2) {
    if (tile + 1 < tiles)
      add_outer_steps<Tiles, true>(p, tile, k, pairs);
    else
      add_outer_steps<Tiles, false>(p, tile, k, pairs);
    constexpr std::int64_t kRow = 32 * 4;
    Tiles::template store<0>(sums, kRow);
    Tiles::template store<1>(sums + 16, kRow);
    Tiles::template store<2>(sums + 512, kRow);
    Tiles::template store<3>(sums + 528, kRow);
    const std::int64_t end = std::min(2 * p.rank, (tile + 2) * 16);
    for (std::int64_t j = tile * 16; j < end; ++j) {
      float* to = p.sum + j % p.rank * 32;
      const float* from = sums + (j - tile * 16) * 32;
      for (std::int64_t c = 0; c < 32; ++c) to[c] += from[c];
    }
  }
  Tiles::release();
}

}  // namespace
}  // namespace biqa::cpu
