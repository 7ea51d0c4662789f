// SPDX-License-Identifier: Apache-2.0
// bf16 products on tile registers (AMX), written out by hand because a row's bits must not depend on its batch: oneDNN's
// AMX kernels cut the inner sum by the number of rows (docs/decisions/0017-own-amx-product.md).
//
// Every element of y is one chain: it starts at the bias (or 0) and adds 32 inner elements at a time, in order, in f32,
// as the instruction TDPBF16PS does. Neither rows nor threads nor blocking can change that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/bf16.h"
#include "ops/cpu/products.h"
#include "tensor/tensor.h"

namespace biqa::cpu {

/// The layout of B [inner, columns]. Panels of 256 columns are cut into chunks of the inner width, and a chunk into
/// blocks of 32 columns. A block consists of steps of 32 inner elements. A step has two tiles (columns 0–15 and 16–31)
/// of 16 pairs × 16 columns × the 2 elements of a pair. A product reads them in this order. Missing elements are zero.
struct TileLayout {
  static constexpr std::int64_t kStep = 32;
  static constexpr std::int64_t kBlock = 32;
  static constexpr std::int64_t kPanelBlocks = 8;
  static constexpr std::int64_t kStepElements = kStep * kBlock;

  TileLayout(std::int64_t inner_width, std::int64_t column_count);
  std::int64_t elements() const { return steps * blocks * kStepElements; }
  /// Equal for equal layouts, and different from that of any other packed matrix.
  std::uint64_t fingerprint() const;

  std::int64_t inner, columns;
  std::int64_t steps, blocks;
  std::int64_t chunk_steps;  ///< steps of a chunk; the last one may have fewer
};

/// Fills `packed` [layout.elements()]. `weight` is [columns, inner] when transposed, else [inner, columns]; f32 or bf16.
void pack_tiles(ConstView weight, bool transposed, const TileLayout& layout, Bf16* packed);

/// y [rows, columns] f32 (+)= x [rows, inner] · B + bias; x and y dense.
struct TileProduct {
  const TileLayout* layout = nullptr;
  const Bf16* packed = nullptr;
  const float* bias = nullptr;  ///< [blocks · 32], zeros after the columns; or null
  const Bf16* x = nullptr;
  /// [rows, 32]: the inner elements of the last step, filled up with zeros; null where the inner width is whole steps.
  const Bf16* last_step = nullptr;
  std::int64_t rows = 0;
  float* y = nullptr;
  bool accumulate = false;
};

/// Does part `part` of `parts` of a product; the parts are independent. `scratch` is kTileScratch floats, 64-byte
/// aligned, used only by this part.
using TileKernel = void (*)(const TileProduct& product, std::int64_t part, std::int64_t parts,
                            float* scratch);
/// Rows whose sums are kept between the chunks of the inner width.
inline constexpr std::int64_t kTileGroupRows = 256;
inline constexpr std::int64_t kTileScratch =
    kTileGroupRows * TileLayout::kPanelBlocks * TileLayout::kBlock + TileLayout::kBlock * TileLayout::kBlock;

/// The kernel on the processor's tile registers; null where the processor, the system or the build has none.
TileKernel amx_tile_kernel();
/// The same kernel on simulated registers. It gives the same bits on any machine, but is thousands of times slower.
TileKernel scalar_tile_kernel();

/// Products on tiles; `kernel` is one of the two.
std::unique_ptr<PackedMatrix::Implementation> make_tile_matrix(const MatrixSource& source, TileKernel kernel);

}  // namespace biqa::cpu
