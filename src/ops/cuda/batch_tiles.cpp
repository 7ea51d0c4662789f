// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/batch_tiles.h"

#include <limits>

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

std::vector<QueryRows> forward_rows(const RowBatch& batch, const std::vector<Queries>& queries) {
  std::vector<QueryRows> all;
  std::int64_t first_page = 0;
  for (std::size_t i = 0; i < batch.sequences.size(); ++i) {
    const SequenceRows& s = batch.sequences[i];
    const Queries& q = queries[i];
    if (q.count > 0)
      all.push_back({narrow(q.first),
                     narrow(q.count),
                     {narrow(first_page), narrow(s.preceding + q.without + 1), 1},
                     {}});
    first_page += static_cast<std::int64_t>(s.pages.size());
  }
  return all;
}

struct GroupTables {
  std::vector<QueryRows> queries;
  std::vector<SharedKeys> keys;
};
/// The rows of a prompt see its keys up to their own; those of a member see the whole prompt, then the member's up to their own.
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

BatchTiles batch_tiles(const RowBatch& batch, std::int64_t heads_per_kv_head, bool outputs_only) {
  const std::vector<Queries> queries = queries_of(batch, outputs_only);
  const GroupTables groups = group_tables(batch, queries);
  return {query_tiles(forward_rows(batch, queries), heads_per_kv_head),
          query_tiles(groups.queries, heads_per_kv_head), key_blocks(groups.keys)};
}

}  // namespace biqa::cuda
