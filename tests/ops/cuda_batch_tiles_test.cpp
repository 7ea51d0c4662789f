// SPDX-License-Identifier: Apache-2.0
// The tiles of a batch name, for each query row and head, the keys that it sees, once.
#include "ops/cuda/batch_tiles.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace biqa {
namespace {

using cuda::BatchTiles;
using cuda::KeyRun;
using cuda::QueryTile;

constexpr std::int32_t kSharing = 3;  // heads per kv head

/// Two groups between a sequence that is in none; pages are numbered by sequence and place.
RowBatch batch() {
  RowBatch all;
  std::int64_t row = 0;
  const auto add = [&](std::int64_t rows, std::int64_t preceding, std::int64_t outputs) {
    SequenceRows s{row, rows, preceding, outputs, {}};
    for (std::int64_t i = 0; i * cuda::kPageTokens < preceding + rows; ++i)
      s.pages.push_back(static_cast<std::int32_t>(100 * all.sequences.size()) + static_cast<std::int32_t>(i));
    all.sequences.push_back(s);
    row += rows;
  };
  add(90, 0, 1);    // prompt
  add(70, 90, 70);  // its members
  add(1, 90, 1);
  add(2, 130, 1);  // continues what is in the cache
  add(66, 0, 0);   // another prompt, without an output
  add(30, 66, 30);
  all.groups = {{0, {1, 2}}, {4, {5}}};
  all.ids.resize(static_cast<std::size_t>(row));
  return all;
}

/// Where a row's query stands, or −1.
std::int64_t query_of(const RowBatch& all, std::size_t sequence, std::int64_t i, bool outputs_only) {
  const SequenceRows& s = all.sequences[sequence];
  if (!outputs_only) return s.first_row + i;
  std::int64_t before = 0;
  for (std::size_t other = 0; other < sequence; ++other) before += all.sequences[other].outputs;
  return i < s.rows - s.outputs ? -1 : before + i - (s.rows - s.outputs);
}

using Seen = std::map<std::pair<std::int64_t, int>, std::multiset<std::int64_t>>;  // by query row and head

void add_run(std::multiset<std::int64_t>& keys, const KeyRun& run, std::int32_t later) {
  for (std::int32_t k = 0; k < run.length + run.growth * later; ++k) keys.insert(run.first + k);
}
Seen seen_by_tiles(const std::vector<QueryTile>& tiles) {
  Seen seen;
  for (const QueryTile& tile : tiles) {
    for (std::int32_t pair = tile.first_pair; pair < tile.first_pair + tile.pairs; ++pair) {
      auto& keys = seen[{pair / kSharing, pair % kSharing}];
      const std::int32_t later = pair / kSharing - tile.first_pair / kSharing;
      add_run(keys, tile.keys, later);
      add_run(keys, tile.own, later);
    }
  }
  return seen;
}
/// What the key blocks say, from the side of the queries.
Seen seen_by_blocks(const cuda::KeyBlocks& keys) {
  Seen seen;
  for (const cuda::KeyBlock& block : keys.blocks) {
    for (std::int32_t r = block.first_run; r < block.first_run + block.runs; ++r) {
      const cuda::QueryRun& run = keys.runs[static_cast<std::size_t>(r)];
      for (std::int32_t row = 0; row < run.rows; ++row) {
        for (std::int32_t k = 0; k < block.keys; ++k) {
          if (block.position + k >= run.seen + run.growth * row) continue;
          for (int head = 0; head < kSharing; ++head)
            seen[{run.first_row + row, head}].insert(block.first_key + k);
        }
      }
    }
  }
  return seen;
}
/// By the definition of a group.
Seen seen_in_groups(const RowBatch& all, bool outputs_only) {
  Seen seen;
  for (const GroupRows& group : all.groups) {
    const SequenceRows& prompt = all.sequences[group.prompt];
    std::vector<std::size_t> sequences{group.prompt};
    sequences.insert(sequences.end(), group.members.begin(), group.members.end());
    for (const std::size_t s : sequences) {
      for (std::int64_t i = 0; i < all.sequences[s].rows; ++i) {
        const std::int64_t query = query_of(all, s, i, outputs_only);
        if (query < 0) continue;
        for (int head = 0; head < kSharing; ++head) {
          auto& keys = seen[{query, head}];
          for (std::int64_t k = 0; k < (s == group.prompt ? i + 1 : prompt.rows); ++k)
            keys.insert(prompt.first_row + k);
          for (std::int64_t k = 0; k <= i && s != group.prompt; ++k)
            keys.insert(all.sequences[s].first_row + k);
        }
      }
    }
  }
  return seen;
}

class CudaBatchTiles : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(AllRowsOrOutputs, CudaBatchTiles, ::testing::Bool());

TEST_P(CudaBatchTiles, ForwardTilesSeeTheSequencesPages) {
  const RowBatch all = batch();
  const BatchTiles tiles = cuda::batch_tiles(all, kSharing, GetParam());
  Seen expected;
  std::int64_t first_page = 0;
  for (std::size_t s = 0; s < all.sequences.size(); ++s) {
    const SequenceRows& sequence = all.sequences[s];
    for (std::int64_t i = 0; i < sequence.rows; ++i) {
      const std::int64_t query = query_of(all, s, i, GetParam());
      for (int head = 0; head < kSharing && query >= 0; ++head) {
        for (std::int64_t k = 0; k < sequence.preceding + i + 1; ++k)
          expected[{query, head}].insert(first_page + k);
      }
    }
    first_page += static_cast<std::int64_t>(sequence.pages.size());
  }
  EXPECT_EQ(seen_by_tiles(tiles.forward), expected);
}

TEST_P(CudaBatchTiles, BackwardTilesAndKeyBlocksSeeTheSame) {
  const RowBatch all = batch();
  const BatchTiles tiles = cuda::batch_tiles(all, kSharing, GetParam());
  const Seen expected = seen_in_groups(all, GetParam());
  EXPECT_EQ(seen_by_tiles(tiles.backward), expected);
  EXPECT_EQ(seen_by_blocks(tiles.keys), expected);
  // Keys that no query sees have a block too: their gradients are written as 0.
  std::int64_t keys = 0;
  for (const cuda::KeyBlock& block : tiles.keys.blocks) keys += block.keys;
  EXPECT_EQ(keys, 90 + 70 + 1 + 66 + 30);
}

TEST(CudaBatchTilesWithoutGroups, HaveNoBackward) {
  RowBatch all = batch();
  all.groups.clear();
  const BatchTiles tiles = cuda::batch_tiles(all, kSharing, false);
  EXPECT_FALSE(tiles.forward.empty());
  EXPECT_TRUE(tiles.backward.empty());
  EXPECT_TRUE(tiles.keys.blocks.empty());
}

}  // namespace
}  // namespace biqa
