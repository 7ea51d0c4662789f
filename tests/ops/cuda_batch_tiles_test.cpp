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
  const BatchTiles tiles = cuda::batch_tiles(all, kSharing, GetParam(), 9);
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
  EXPECT_EQ(seen_by_tiles(tiles.forward.tiles), expected);
}

TEST_P(CudaBatchTiles, BackwardTilesAndKeyBlocksSeeTheSame) {
  const RowBatch all = batch();
  const BatchTiles tiles = cuda::batch_tiles(all, kSharing, GetParam(), 9);
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
  const BatchTiles tiles = cuda::batch_tiles(all, kSharing, false, 9);
  EXPECT_FALSE(tiles.forward.tiles.empty());
  EXPECT_TRUE(tiles.backward.empty());
  EXPECT_TRUE(tiles.keys.blocks.empty());
}

/// Sequences with one row that is the token after `preceding` others; their pages.
RowBatch decoding(const std::vector<std::pair<std::int64_t, std::vector<std::int32_t>>>& sequences) {
  RowBatch all;
  for (const auto& [preceding, pages] : sequences) {
    const auto row = static_cast<std::int64_t>(all.sequences.size());
    all.sequences.push_back({row, 1, preceding, 1, pages});
    all.ids.push_back(0);
  }
  return all;
}
/// The places that each row sees, as numbers of pages and keys in the page; in order.
std::map<std::int32_t, std::vector<std::int32_t>> places_seen(const RowBatch& all,
                                                              const cuda::ForwardTiles& tiles) {
  std::vector<std::int32_t> table;
  for (const SequenceRows& s : all.sequences) table.insert(table.end(), s.pages.begin(), s.pages.end());
  std::map<std::int32_t, std::vector<std::int32_t>> seen;
  for (const QueryTile& tile : tiles.tiles) {
    const std::int32_t first_row = tile.first_pair / kSharing;
    EXPECT_TRUE(tile.members == 0 || tile.pairs == tile.members * kSharing);
    for (std::int32_t i = 0; i * kSharing < tile.pairs; ++i) {
      auto& places = seen[first_row + i];
      std::vector<KeyRun> runs{tile.keys};
      if (tile.members > 0)
        runs.push_back(tiles.own[static_cast<std::size_t>(tile.first_member) + static_cast<std::size_t>(i)]);
      for (const KeyRun& run : runs) {
        for (std::int32_t k = 0; k < run.length; ++k) {
          const std::int32_t page = table[static_cast<std::size_t>(run.first + k / cuda::kPageTokens)];
          places.push_back(page * cuda::kPageTokens + k % cuda::kPageTokens);
        }
      }
    }
  }
  return seen;
}

TEST(CudaBatchTiles, DecodeRowsOfAGroupShareTheTilesOfTheirFirstPages) {
  // Two whole pages in common, one, none; a group whose pages are not whole; a group at the end.
  const RowBatch all = decoding({{130, {1, 2, 3}},
                                 {140, {1, 2, 4}},
                                 {128, {1, 2, 5}},
                                 {64, {1, 6}},
                                 {70, {7, 8}},
                                 {63, {9}},
                                 {40, {9}},
                                 {300, {20, 21, 22, 23, 24}},
                                 {301, {20, 21, 22, 25, 26}}});
  const auto alone = cuda::batch_tiles(all, kSharing, false, 1).forward;
  EXPECT_EQ(alone.tiles.size(), all.sequences.size());
  EXPECT_TRUE(alone.own.empty());
  const auto expected = places_seen(all, alone);
  EXPECT_EQ(expected.size(), all.sequences.size());
  for (const bool outputs_only : {false, true}) {
    const auto shared = cuda::batch_tiles(all, kSharing, outputs_only, 9).forward;
    EXPECT_EQ(places_seen(all, shared), expected);
    std::multiset<std::pair<std::int32_t, std::int32_t>> members;  // with the keys they share
    for (const QueryTile& tile : shared.tiles) {
      if (tile.members > 0) members.insert({tile.members, tile.keys.length});
    }
    EXPECT_EQ(members, (std::multiset<std::pair<std::int32_t, std::int32_t>>{{2, 192}, {3, 128}}));
  }
  const auto pairs_of_rows = cuda::batch_tiles(all, kSharing, false, 2).forward;
  EXPECT_EQ(places_seen(all, pairs_of_rows), expected);
  EXPECT_EQ(pairs_of_rows.tiles.size(), 7U);
}

TEST(CudaBatchTiles, OnlySingleRowsShareTiles) {
  RowBatch all = decoding({{130, {1, 2, 3}}, {140, {1, 2, 4}}, {128, {1, 2, 5}}});
  all.sequences[1].rows = 2;
  all.sequences[2].first_row = 3;
  for (const std::int64_t outputs : {1, 2}) {
    all.sequences[1].outputs = outputs;
    for (const bool outputs_only : {false, true})
      EXPECT_TRUE(cuda::batch_tiles(all, kSharing, outputs_only, 9).forward.own.empty());
  }
}

TEST(CudaBatchTiles, FewRowsShareNothing) {
  const auto members = [](std::size_t rows, const HeadShape& heads) {
    return cuda::members_of_tile(
        decoding(std::vector<std::pair<std::int64_t, std::vector<std::int32_t>>>(rows, {64, {1, 2}})), heads);
  };
  EXPECT_EQ(members(63, {28, 4, 128}), 1);  // fewer than 128 tiles remain if two rows share one
  EXPECT_EQ(members(64, {28, 4, 128}), 2);
  EXPECT_EQ(members(256, {28, 4, 128}), 8);
  EXPECT_EQ(members(1000, {28, 4, 128}), 9);  // 63 of 64 pairs
  EXPECT_EQ(members(1000, {128, 1, 128}), 1);
}

}  // namespace
}  // namespace biqa
