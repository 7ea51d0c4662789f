// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores, for bf16 keys and values. A pair is a query row and a head. A tile is up to 64 pairs whose
// heads share a kv head. The kernel processes the keys of a tile in blocks of 64, from the sequence's first key on. The
// bits of a row depend only on its query and on the keys that it attends to, not on its tile. Products read bf16 and
// sum in f32; see docs/numerics.md.
//
// Rows of several sequences may be in one tile if the sequences share their first pages. The tile reads these once.
//
// The last row of a sequence in a tile attends to the most keys. Keys and values after these may be anything, even NaN.
// Keys and values to which only some rows of a tile attend must be finite. A NaN there would reach the other rows.
// No sum uses atomics. All calls only enqueue work on `stream`.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/cuda/attention.h"
#include "ops/cuda/buffers.h"
#include "tensor/arena.h"

namespace biqa::cuda {

/// Maximum number of pairs in a tile, and of keys in a block.
inline constexpr int kTilePairs = 64;
inline constexpr int kBlockKeys = 64;

/// Consecutive keys to which consecutive query rows attend. The first row attends to `length` keys, each following row
/// to `growth` (0 or 1) more keys.
struct KeyRun {
  std::int32_t first = 0;  ///< entry of the page table, or packed row, of the first key
  std::int32_t length = 0, growth = 0;
};

/// Consecutive query rows of one sequence. They attend to `keys`, then to `own`. Only the backward pass uses `own`: for
/// completions, `keys` is the prompt and `own` the completion.
struct QueryRows {
  std::int32_t first_row = 0, rows = 0;
  KeyRun keys, own;
};
/// Consecutive query rows of different sequences whose first keys are in the same pages, such as the members of a group
/// while they are decoded. All rows attend to `keys`, a run of whole blocks. Then row i attends to own[i].
struct SharedQueryRows {
  std::int32_t first_row = 0;
  KeyRun keys;
  std::vector<KeyRun> own;
};
/// `pairs` consecutive pairs. A pair has the number row · heads per kv head + head within the kv head; `first_pair` is
/// the first number. `keys` and `own` are those of the row of the first pair. If `members` is not 0, it is the
/// number of sequences in the tile. Row i then attends to ForwardTiles::own[first_member + i] instead of `own`.
struct QueryTile {
  std::int32_t first_pair = 0, pairs = 0;
  KeyRun keys, own;
  std::int32_t first_member = 0, members = 0;
};
/// Divides all rows into tiles. The tiles with most keys come first.
std::vector<QueryTile> query_tiles(const std::vector<QueryRows>& rows, std::int64_t heads_per_kv_head);

struct ForwardTiles {
  std::vector<QueryTile> tiles;  ///< the tiles with most keys come first
  std::vector<KeyRun> own;       ///< of the rows that share keys with other sequences
};
/// Like query_tiles(), and also divides the rows in `shared`. A tile holds at most `members` of these rows.
ForwardTiles forward_tiles(const std::vector<QueryRows>& rows, const std::vector<SharedQueryRows>& shared,
                           std::int64_t heads_per_kv_head, std::int64_t members);

/// ForwardTiles in device memory.
struct ForwardTable {
  DeviceSpan<QueryTile> tiles;
  DeviceSpan<KeyRun> own;
};
/// Computes attention() of ops/cuda/attention.h for the rows of `table`. q and out [T, heads·D] f32 or bf16; lse [T,
/// heads] f32 unless empty. Rows of q and out begin at multiples of two elements.
void tile_attention(ConstView q, const KvPages& pages, const HeadShape& shape, const ForwardTable& table,
                    DeviceSpan<std::int32_t> page_table, View out, View lse, const Stream& stream);

/// Computes segment_attention() for the rows of `tiles`. The key runs of the tiles are packed rows of k and v [T,
/// heads·D] bf16. Rows of k and v begin at multiples of 16 bytes and have the same stride.
void tile_segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                            DeviceSpan<QueryTile> tiles, View out, const Stream& stream);

/// Consecutive query rows that attend to a run of keys. The first row attends to the first `seen` keys of the run, each
/// following row to `growth` (0 or 1) more keys.
struct QueryRun {
  std::int32_t first_row = 0, rows = 0, seen = 0, growth = 0;
};
/// Up to 64 consecutive packed keys of a run. The query rows of the run are TileBackwardTables::runs[first_run …
/// first_run + runs − 1].
struct KeyBlock {
  std::int32_t first_key = 0, keys = 0;
  std::int32_t position = 0;  ///< of the first key of the block in the run
  std::int32_t first_run = 0, runs = 0;
};
/// A run of keys to which the same query rows attend: `keys` packed rows from `first_key` on.
struct SharedKeys {
  std::int32_t first_key = 0, keys = 0;
  std::vector<QueryRun> queries;
};
struct KeyBlocks {
  std::vector<KeyBlock> blocks;  ///< the blocks to which most rows attend come first
  std::vector<QueryRun> runs;
};
KeyBlocks key_blocks(const std::vector<SharedKeys>& all);

struct TileBackwardTables {
  DeviceSpan<QueryTile> queries;  ///< their key runs are packed rows
  DeviceSpan<KeyBlock> keys;
  DeviceSpan<QueryRun> runs;
};
/// Computes attention_backward() for the rows of `tables`. out and lse are the results of tile_attention() for q. k and
/// v are [T, kv_heads·D] bf16 with the alignment and stride that tile_segment_attention() needs. q and out
/// are f32 or bf16; d_out, d_q, d_k and d_v are f32. Their rows begin at multiples of two elements. With T' rows of q, the call takes [T',
/// 2·heads·D] bf16 and [T', 2·heads] f32 from `scratch`.
void tile_attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                             ConstView d_out, const HeadShape& shape, const TileBackwardTables& tables,
                             View d_q, View d_k, View d_v, Arena& scratch, const Stream& stream);

}  // namespace biqa::cuda
