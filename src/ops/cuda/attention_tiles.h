// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores, for bf16 keys and values. A tile is up to 64 pairs of a query row and a head that share a kv head.
// It goes over the keys in blocks of 64, from the sequence's first key on. The bits of a row depend on its query and on the keys
// that it sees, not on its tile. Products read bf16 and sum in f32; see docs/numerics.md.
//
// Keys and values behind those that a tile's last row sees may be anything. Those that only some rows of a tile see must be
// finite: a NaN reaches the sequence's other rows in the tile. No sum uses atomics. All calls only enqueue work on `stream`.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/cuda/attention.h"
#include "tensor/arena.h"

namespace biqa::cuda {

/// Pairs of a tile, keys of a block.
inline constexpr int kTilePairs = 64;
inline constexpr int kBlockKeys = 64;

/// Whether the kernels here take this shape: bf16, head dimensions that are multiples of 8 up to 128.
bool tiles_fit(const HeadShape& shape, DType type);

/// Consecutive keys. The first of some query rows sees `length` of them, each next row `growth` (0 or 1) more.
struct KeyRun {
  std::int32_t first = 0;  ///< where they begin: place in the page table, or packed row
  std::int32_t length = 0, growth = 0;
};

/// Consecutive query rows of one sequence. They see `keys`, then `own` (the backward's rows after a prompt; else empty).
struct QueryRows {
  std::int32_t first_row = 0, rows = 0;
  KeyRun keys, own;
};
/// Pairs from `first_pair` = row · heads per kv head + head within the kv head. The runs are those of the first pair's row.
struct QueryTile {
  std::int32_t first_pair = 0, pairs = 0;
  KeyRun keys, own;
};
/// The tiles of all rows, those with most keys first.
std::vector<QueryTile> query_tiles(const std::vector<QueryRows>& rows, std::int64_t heads_per_kv_head);

/// attention() of ops/cuda/attention.h for the rows of `tiles`: q [T, heads·D] f32, out [T, heads·D] f32 or bf16, lse [T, heads]
/// f32 unless empty. Rows of q and out begin at multiples of 8 bytes.
void tile_attention(ConstView q, const KvPages& pages, const HeadShape& shape, DeviceSpan<QueryTile> tiles,
                    DeviceSpan<std::int32_t> page_table, View out, View lse, const Stream& stream);

/// segment_attention() for the rows of `tiles`, whose key runs are packed rows of k and v [T, heads·D] bf16. Rows of k and v
/// begin at multiples of 16 bytes and have the same stride.
void tile_segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                            DeviceSpan<QueryTile> tiles, View out, const Stream& stream);

/// Consecutive query rows. The first sees `seen` keys of some run, each next row `growth` (0 or 1) more.
struct QueryRun {
  std::int32_t first_row = 0, rows = 0, seen = 0, growth = 0;
};
/// Up to 64 consecutive packed keys of a run, and the query rows that see any of them: a range of a table.
struct KeyBlock {
  std::int32_t first_key = 0, keys = 0;
  std::int32_t position = 0;  ///< of the first key in its run
  std::int32_t first_run = 0, runs = 0;
};
/// Keys that the same query rows see: `keys` packed rows from `first_key` on.
struct SharedKeys {
  std::int32_t first_key = 0, keys = 0;
  std::vector<QueryRun> queries;
};
struct KeyBlocks {
  std::vector<KeyBlock> blocks;  ///< those that most rows see first
  std::vector<QueryRun> runs;
};
KeyBlocks key_blocks(const std::vector<SharedKeys>& all);

struct TileBackwardTables {
  DeviceSpan<QueryTile> queries;  ///< their runs are packed rows
  DeviceSpan<KeyBlock> keys;
  DeviceSpan<QueryRun> runs;
};
/// attention_backward() for the rows of `tables`, where q has been through tile_attention(). k and v [T, kv_heads·D] bf16, laid
/// out as for tile_segment_attention(); q, d_out, d_q, d_k and d_v f32, out f32 or bf16. Rows of f32 begin at multiples of 8
/// bytes. Takes [T', 2·heads·D] bf16 and [T', 2·heads] f32 of scratch for the T' rows of q.
void tile_attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                             ConstView d_out, const HeadShape& shape, const TileBackwardTables& tables,
                             View d_q, View d_k, View d_v, Arena& scratch, const Stream& stream);

}  // namespace biqa::cuda
