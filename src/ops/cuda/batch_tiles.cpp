// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/batch_tiles.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace biqa::cuda {
namespace {

std::int32_t narrow(std::int64_t value) {
  CHECK(value >= 0 && value <= std::numeric_limits<std::int32_t>::max()) << value;
  return static_cast<std::int32_t>(value);
}

/// The query rows of each sequence.
struct Queries {
  std::int64_t first = 0, count = 0;
  std::int64_t without = 0;  // rows of the sequence before its first query
};
std::vector<Queries> queries_of(const RowBatch& batch, bool outputs_only) {
  std::vector<Queries> all;
  std::int64_t output = 0;
  for (const SequenceRows& s : batch.sequences) {
    if (outputs_only)
      all.push_back({output, s.outputs, s.rows - s.outputs});
    else
      all.push_back({s.first_row, s.rows, 0});
    output += s.outputs;
  }
  return all;
}

/// Pages at the beginning of both sequences that are the same and whose keys are all visible to both.
std::int64_t shared_pages(const SequenceRows& a, const SequenceRows& b) {
  const std::int64_t most = std::min(a.preceding, b.preceding) / kBlockKeys;
  std::int64_t count = 0;
  while (count < most && a.pages[static_cast<std::size_t>(count)] == b.pages[static_cast<std::size_t>(count)])
    ++count;
  return count;
}

struct ForwardRows {
  std::vector<QueryRows> rows;
  std::vector<SharedQueryRows> shared;
};
ForwardRows forward_rows(const RowBatch& batch, const std::vector<Queries>& queries, bool share) {
  std::vector<std::int64_t> first_page{0};
  for (const SequenceRows& s : batch.sequences)
    first_page.push_back(first_page.back() + static_cast<std::int64_t>(s.pages.size()));
  ForwardRows all;
  const std::size_t count = batch.sequences.size();
  for (std::size_t i = 0; i < count;) {
    const SequenceRows& first = batch.sequences[i];
    const std::int64_t pages = share && i + 1 < count ? shared_pages(first, batch.sequences[i + 1]) : 0;
    std::size_t end = i;
    if (pages > 0) {
      while (end < count && batch.sequences[end].rows == 1 && queries[end].count == 1 &&
             shared_pages(first, batch.sequences[end]) >= pages)
        ++end;
    }
    if (end < i + 2) {
      const Queries& q = queries[i];
      const KeyRun keys{narrow(first_page[i]), narrow(first.preceding + q.without + 1), 1};
      if (q.count > 0) all.rows.push_back({narrow(q.first), narrow(q.count), keys, {}});
      ++i;
      continue;
    }
    SharedQueryRows group{
        narrow(queries[i].first), {narrow(first_page[i]), narrow(pages * kBlockKeys), 0}, {}};
    for (; i < end; ++i) {
      const std::int64_t keys = batch.sequences[i].preceding + 1 - pages * kBlockKeys;
      group.own.push_back({narrow(first_page[i] + pages), narrow(keys), 0});
    }
    all.shared.push_back(std::move(group));
  }
  return all;
}

struct GroupTables {
  std::vector<QueryRows> queries;
  std::vector<SharedKeys> keys;
};
/// A prompt's row attends to the prompt's keys up to its own. A member's row attends to the whole prompt and to the
/// member's keys up to its own.
GroupTables group_tables(const RowBatch& batch, const std::vector<Queries>& queries) {
  GroupTables tables;
  for (const GroupRows& group : batch.groups) {
    const SequenceRows& prompt = batch.sequences[group.prompt];
    const Queries& q = queries[group.prompt];
    const std::int32_t prompt_first = narrow(prompt.first_row);
    const std::int32_t prompt_rows = narrow(prompt.rows);
    SharedKeys prompt_keys{prompt_first, prompt_rows, {}};
    if (q.count > 0) {
      const std::int32_t seen = narrow(q.without + 1);
      tables.queries.push_back({narrow(q.first), narrow(q.count), {prompt_first, seen, 1}, {}});
      prompt_keys.queries.push_back({narrow(q.first), narrow(q.count), seen, 1});
    }
    for (const std::size_t m : group.members) {
      const SequenceRows& member = batch.sequences[m];
      CHECK_EQ(member.outputs, member.rows);
      if (member.rows == 0) continue;
      const std::int32_t first = narrow(queries[m].first);
      const std::int32_t rows = narrow(member.rows);
      const std::int32_t key = narrow(member.first_row);
      tables.queries.push_back({first, rows, {prompt_first, prompt_rows, 0}, {key, 1, 1}});
      tables.keys.push_back({key, rows, {{first, rows, 1, 1}}});
      prompt_keys.queries.push_back({first, rows, prompt_rows, 0});
    }
    tables.keys.push_back(prompt_keys);
  }
  return tables;
}

}  // namespace

BatchTiles batch_tiles(const RowBatch& batch, std::int64_t heads_per_kv_head, bool outputs_only,
                       std::int64_t members) {
  const std::vector<Queries> queries = queries_of(batch, outputs_only);
  const GroupTables groups = group_tables(batch, queries);
  const ForwardRows forward = forward_rows(batch, queries, members > 1);
  return {forward_tiles(forward.rows, forward.shared, heads_per_kv_head, members),
          query_tiles(groups.queries, heads_per_kv_head), key_blocks(groups.keys)};
}

std::int64_t members_of_tile(const RowBatch& batch, const HeadShape& heads) {
  // A GPU has up to 132 multiprocessors. With fewer tiles than that, some would have nothing to do.
  constexpr std::int64_t kWishedBlocks = 128;
  std::int64_t rows = 0;
  for (const SequenceRows& s : batch.sequences) rows += s.rows == 1 ? 1 : 0;
  const std::int64_t most = std::max<std::int64_t>(kTilePairs / (heads.heads / heads.kv_heads), 1);
  return std::clamp<std::int64_t>(rows * heads.kv_heads / kWishedBlocks, 1, most);
}

}  // namespace biqa::cuda
