// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/cpu/tile_attention.h"
#include "ops/cpu/tile_lora.h"
#include "ops/cpu/tile_product.h"

namespace biqa::cpu {

/// The kernels that use tile registers.
struct TileSet {
  TileKernel product;
  TileAttentionKernels attention;
  SplitOuterKernel outer;
};

/// On the tile registers of the processor. Null if the processor, the system or the build does not support them.
const TileSet* amx_tiles();
/// On simulated registers: the same bits on any machine, thousands of times slower.
const TileSet* scalar_tiles();

}  // namespace biqa::cpu
