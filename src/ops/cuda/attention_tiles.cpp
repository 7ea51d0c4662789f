// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/attention_tiles.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace biqa::cuda {
namespace {

std::int32_t narrow(std::int64_t value) {
  CHECK(value >= 0 && value <= std::numeric_limits<std::int32_t>::max()) << value;
  return static_cast<std::int32_t>(value);
}

/// The keys of the row that comes `rows` after the run's first.
KeyRun later(KeyRun run, std::int64_t rows) {
  run.length = narrow(run.length + rows * run.growth);
  return run;
}

std::int32_t key_count(const QueryTile& tile) {
  return tile.keys.length + tile.own.length;
}

}  // namespace

ForwardTiles forward_tiles(const std::vector<QueryRows>& rows, const std::vector<SharedQueryRows>& shared,
                           std::int64_t heads_per_kv_head, std::int64_t members) {
  CHECK(members > 0 && (shared.empty() || members * heads_per_kv_head <= kTilePairs))
      << members << " members";
  ForwardTiles result{query_tiles(rows, heads_per_kv_head), {}};
  std::vector<std::pair<std::int32_t, QueryTile>> counted;  // with the number of its keys
  for (const QueryTile& tile : result.tiles) counted.emplace_back(key_count(tile), tile);
  for (const SharedQueryRows& group : shared) {
    CHECK(group.keys.length > 0 && group.keys.length % kBlockKeys == 0 && group.keys.growth == 0)
        << group.keys.length << " shared keys";
    const auto rows_of_group = static_cast<std::int64_t>(group.own.size());
    for (std::int64_t first = 0; first < rows_of_group; first += members) {
      const std::int64_t count = std::min(members, rows_of_group - first);
      const auto own = group.own.begin() + first;
      std::int32_t keys = group.keys.length;
      for (auto run = own; run != own + count; ++run) keys += run->length;
      counted.push_back({keys,
                         {narrow((group.first_row + first) * heads_per_kv_head),
                          narrow(count * heads_per_kv_head),
                          group.keys,
                          {},
                          narrow(static_cast<std::int64_t>(result.own.size())),
                          narrow(count)}});
      result.own.insert(result.own.end(), own, own + count);
    }
  }
  std::stable_sort(counted.begin(), counted.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  result.tiles.clear();
  for (const auto& [keys, tile] : counted) result.tiles.push_back(tile);
  return result;
}

std::vector<QueryTile> query_tiles(const std::vector<QueryRows>& rows, std::int64_t heads_per_kv_head) {
  std::vector<QueryTile> tiles;
  for (const QueryRows& run : rows) {
    const std::int64_t pairs = run.rows * heads_per_kv_head;
    for (std::int64_t pair = 0; pair < pairs; pair += kTilePairs) {
      tiles.push_back({narrow(run.first_row * heads_per_kv_head + pair),
                       narrow(std::min<std::int64_t>(pairs - pair, kTilePairs)),
                       later(run.keys, pair / heads_per_kv_head), later(run.own, pair / heads_per_kv_head), 0,
                       0});
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const QueryTile& a, const QueryTile& b) { return key_count(a) > key_count(b); });
  return tiles;
}

KeyBlocks key_blocks(const std::vector<SharedKeys>& all) {
  KeyBlocks result;
  std::vector<std::pair<std::int64_t, KeyBlock>> weighted;  // with the number of rows that attend to it
  for (const SharedKeys& keys : all) {
    const auto first_run = narrow(static_cast<std::int64_t>(result.runs.size()));
    result.runs.insert(result.runs.end(), keys.queries.begin(), keys.queries.end());
    for (std::int32_t position = 0; position < keys.keys; position += kBlockKeys) {
      std::int64_t rows = 0;
      for (const QueryRun& run : keys.queries) {
        const std::int64_t blind = run.growth == 0 ? 0 : position - run.seen + 1;
        rows += std::max<std::int64_t>(run.rows - std::max<std::int64_t>(blind, 0), 0);
      }
      weighted.push_back({rows,
                          {keys.first_key + position, std::min(keys.keys - position, kBlockKeys), position,
                           first_run, static_cast<std::int32_t>(keys.queries.size())}});
    }
  }
  std::stable_sort(weighted.begin(), weighted.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  for (const auto& [rows, block] : weighted) result.blocks.push_back(block);
  return result;
}

}  // namespace biqa::cuda
