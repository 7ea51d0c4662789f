// SPDX-License-Identifier: Apache-2.0
// Our own bf16 products on tile registers (AMX). The bits of a row must not depend on its batch. oneDNN's AMX kernels
// are not used, because they divide the inner sum according to the number of rows
// (docs/decisions/0017-own-products.md).
//
// Every element of y is one running sum in f32. It starts at the bias (or 0), and each step adds the products of 32 inner
// elements, as the instruction TDPBF16PS does. The order of the steps does not depend on rows, threads or blocking.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/bf16.h"
#include "ops/cpu/products.h"
#include "tensor/tensor.h"

namespace biqa::cpu {

/// The layout of B [inner, columns] in memory, in the order in which a product reads it. From the largest part to the
/// smallest:
/// - panel: 256 columns
/// - chunk: a part of the inner width of a panel
/// - block: 32 columns of a chunk
/// - step: 32 inner elements of a block
/// - tile: 16 columns of a step, as 16 pairs × 16 columns × the 2 inner elements of a pair
/// Elements outside of B are zero.
struct TileLayout {
  static constexpr std::int64_t kStep = 32;
  static constexpr std::int64_t kBlock = 32;
  static constexpr std::int64_t kPanelBlocks = 8;
  static constexpr std::int64_t kStepElements = kStep * kBlock;

  TileLayout(std::int64_t inner_width, std::int64_t column_count);
  std::int64_t elements() const { return steps * blocks * kStepElements; }
  /// Fingerprint of the layout. Equal layouts have equal fingerprints. Different layouts, and the layouts of other
  /// implementations, have different ones.
  std::uint64_t fingerprint() const;

  std::int64_t inner, columns;
  std::int64_t steps, blocks;
  std::int64_t chunk_steps;  ///< steps of a chunk; the last chunk may have fewer
};

/// Fills `packed` [layout.elements()]. `weight` is [columns, inner] when transposed, else [inner, columns]; f32 or bf16.
void pack_tiles(ConstView weight, bool transposed, const TileLayout& layout, Bf16* packed);

/// The arguments of y [rows, columns] f32 (+)= x [rows, inner] · B + bias.
struct TileProduct {
  const TileLayout* layout = nullptr;
  const Bf16* packed = nullptr;
  const float* bias = nullptr;  ///< [blocks · 32], with zeros after the columns of B; or null
  const Bf16* x = nullptr;
  std::int64_t x_stride = 0;
  /// [rows, 32]: the inner elements of the last step, followed by zeros. Null if the inner width is a multiple of 32.
  const Bf16* last_step = nullptr;
  std::int64_t rows = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
  bool accumulate = false;
  /// With `accumulate`: the running sum starts at the element of y, instead of being added to it at the end. So y is
  /// read and written as tiles. Blocks with fewer than 32 columns are added at the end nevertheless.
  bool from_y = false;
};

/// Computes part `part` of `parts` of a product. The parts are independent. `scratch` has kTileScratch floats, is aligned
/// to 64 bytes, and must not be used by other parts at the same time.
using TileKernel = void (*)(const TileProduct& product, std::int64_t part, std::int64_t parts,
                            float* scratch);
/// Number of rows whose sums are kept in the scratch between two chunks.
inline constexpr std::int64_t kTileGroupRows = 256;
inline constexpr std::int64_t kTileScratch =
    kTileGroupRows * TileLayout::kPanelBlocks * TileLayout::kBlock + TileLayout::kBlock * TileLayout::kBlock;

/// Products through `kernel` (tile_set.h).
std::unique_ptr<PackedMatrix::Implementation> make_tile_matrix(const MatrixSource& source, TileKernel kernel);

}  // namespace biqa::cpu
