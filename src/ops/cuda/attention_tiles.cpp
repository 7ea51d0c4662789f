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

/// Of the row that comes `rows` after the run's first.
KeyRun later(KeyRun run, std::int64_t rows) {
  run.length = narrow(run.length + rows * run.growth);
  return run;
}

std::int32_t key_count(const QueryTile& tile) {
  return tile.keys.length + tile.own.length;
}

}  // namespace

bool tiles_fit(const HeadShape& shape, DType type) {
  constexpr std::int64_t kLargest = 128;
  constexpr std::int64_t kStep = 8;  // elements that a thread copies at once
  return type == DType::bf16 && shape.head_dim % kStep == 0 && shape.head_dim <= kLargest;
}

std::vector<QueryTile> query_tiles(const std::vector<QueryRows>& rows, std::int64_t heads_per_kv_head) {
  std::vector<QueryTile> tiles;
  for (const QueryRows& run : rows) {
    const std::int64_t pairs = run.rows * heads_per_kv_head;
    for (std::int64_t pair = 0; pair < pairs; pair += kTilePairs) {
      tiles.push_back({narrow(run.first_row * heads_per_kv_head + pair),
                       narrow(std::min<std::int64_t>(pairs - pair, kTilePairs)),
                       later(run.keys, pair / heads_per_kv_head), later(run.own, pair / heads_per_kv_head)});
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const QueryTile& a, const QueryTile& b) { return key_count(a) > key_count(b); });
  return tiles;
}

KeyBlocks key_blocks(const std::vector<SharedKeys>& all) {
  KeyBlocks result;
  std::vector<std::pair<std::int64_t, KeyBlock>> weighted;  // with the rows that see it
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
