// SPDX-License-Identifier: Apache-2.0
// The tiles of a batch, for attention on tensor cores. This is host code that needs no device.
#pragma once

#include "ops/batch.h"
#include "ops/cuda/attention_tiles.h"

namespace biqa::cuda {

struct BatchTiles {
  /// of all sequences; key runs are entries of the page table, which lists the pages of one sequence after the other
  ForwardTiles forward;
  std::vector<QueryTile> backward;  ///< of the groups only; key runs are packed rows
  KeyBlocks keys;                   ///< of the groups only
};
/// `outputs_only`: only rows with an output are query rows, and they are numbered by output. Otherwise all rows are
/// query rows. Consecutive sequences with one row that share their first pages are put into common tiles, at most
/// `members` in each; 1 shares nothing.
BatchTiles batch_tiles(const RowBatch& batch, std::int64_t heads_per_kv_head, bool outputs_only,
                       std::int64_t members);
/// How many sequences share a tile: as many as fit, unless a GPU would then have too few tiles to work on.
std::int64_t members_of_tile(const RowBatch& batch, const HeadShape& heads);

}  // namespace biqa::cuda
