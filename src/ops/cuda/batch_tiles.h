// SPDX-License-Identifier: Apache-2.0
// The tiles of a batch, for attention on tensor cores. This is host code that needs no device.
#pragma once

#include "ops/batch.h"
#include "ops/cuda/attention_tiles.h"

namespace biqa::cuda {

struct BatchTiles {
  /// of all sequences; key runs are entries of the page table, which lists the pages of one sequence after the other
  std::vector<QueryTile> forward;
  std::vector<QueryTile> backward;  ///< of the groups only; key runs are packed rows
  KeyBlocks keys;                   ///< of the groups only
};
/// `outputs_only`: only rows with an output are query rows, and they are numbered by output. Otherwise all rows are
/// query rows.
BatchTiles batch_tiles(const RowBatch& batch, std::int64_t heads_per_kv_head, bool outputs_only);

}  // namespace biqa::cuda
