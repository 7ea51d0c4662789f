// SPDX-License-Identifier: Apache-2.0
// The tiles of a batch, for attention on tensor cores. Host code: a batch is planned without a device.
#pragma once

#include "ops/batch.h"
#include "ops/cuda/attention_tiles.h"

namespace biqa::cuda {

struct BatchTiles {
  std::vector<QueryTile>
      forward;  ///< key runs are places in the page table, where the sequences' pages follow each other
  std::vector<QueryTile> backward;  ///< of the groups; key runs are packed rows
  KeyBlocks keys;                   ///< of the groups
};
/// `outputs_only`: query rows are the outputs, numbered by output; else all rows.
BatchTiles batch_tiles(const RowBatch& batch, std::int64_t heads_per_kv_head, bool outputs_only);

}  // namespace biqa::cuda
