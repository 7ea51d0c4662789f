// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/cuda_plan.h"

#include <algorithm>
#include <limits>
#include <map>

#include "ops/cuda/batch_tiles.h"
#include "ops/cuda/cuda_sampled.h"

namespace biqa::cuda {
namespace {

static_assert(sizeof(std::int64_t) == TableBytes::kId && sizeof(std::int64_t) == TableBytes::kIndex);
static_assert(sizeof(std::uint64_t) == TableBytes::kTokenKey && sizeof(std::int32_t) == TableBytes::kPage);
static_assert(sizeof(KvWrite) == TableBytes::kKvWrite && sizeof(QueryRow) == TableBytes::kQueryRow);
static_assert(sizeof(QueryKeys) == TableBytes::kQueryKeys && sizeof(KeyQueries) == TableBytes::kKeyQueries);
static_assert(sizeof(QueryRange) == TableBytes::kQueryRange && sizeof(QueryTile) == TableBytes::kQueryTile);
static_assert(sizeof(KeyRun) == TableBytes::kKeyRun && sizeof(KeyBlock) == TableBytes::kKeyBlock &&
              sizeof(QueryRun) == TableBytes::kQueryRun);
static_assert(sizeof(SampledRow) == TableBytes::kSampledRow &&
              sizeof(DeviceSampledToken) == TableBytes::kSampledToken);
static_assert(kTilePairs == TableBytes::kTilePairs && kBlockKeys == TableBytes::kBlockKeys);

std::int32_t narrow(std::int64_t value) {
  CHECK(value >= 0 && value <= std::numeric_limits<std::int32_t>::max()) << value;
  return static_cast<std::int32_t>(value);
}

/// The index of each sequence's first output.
std::vector<std::int64_t> first_outputs(const RowBatch& batch) {
  std::vector<std::int64_t> first;
  std::int64_t next = 0;
  for (const SequenceRows& s : batch.sequences) {
    first.push_back(next);
    next += s.outputs;
  }
  return first;
}

struct HostTables {
  std::vector<QueryKeys> queries;
  std::vector<KeyQueries> keys;
  std::vector<QueryRange> ranges;
};

/// The keys of each query row and the query rows of each key, for the groups of a batch. `outputs_only`: query rows are
/// numbered by output, and prompt rows without an output are left out.
HostTables backward_tables(const RowBatch& batch, bool outputs_only) {
  const std::vector<std::int64_t> outputs = first_outputs(batch);
  HostTables tables;
  for (const GroupRows& group : batch.groups) {
    const SequenceRows& prompt = batch.sequences[group.prompt];
    const std::int64_t prompt_queries = outputs_only ? prompt.outputs : prompt.rows;
    const std::int64_t prompt_query = outputs_only ? outputs[group.prompt] : prompt.first_row;
    const std::int64_t without =
        prompt.rows - prompt_queries;  // the prompt's first rows, which have no queries
    for (std::int64_t i = 0; i < prompt_queries; ++i) {
      tables.queries.push_back(
          {narrow(prompt_query + i), narrow(prompt.first_row), narrow(without + i + 1), 0, 0});
    }
    const std::int32_t begin = narrow(static_cast<std::int64_t>(tables.ranges.size()));
    for (const std::size_t m : group.members) {
      const SequenceRows& member = batch.sequences[m];
      CHECK_EQ(member.outputs, member.rows);
      const std::int64_t query = outputs_only ? outputs[m] : member.first_row;
      tables.ranges.push_back({narrow(query), narrow(member.rows)});
      for (std::int64_t i = 0; i < member.rows; ++i) {
        tables.queries.push_back({narrow(query + i), narrow(prompt.first_row), narrow(prompt.rows),
                                  narrow(member.first_row), narrow(i + 1)});
        tables.keys.push_back(
            {narrow(member.first_row + i), {narrow(query + i), narrow(member.rows - i)}, 0, 0});
      }
    }
    const std::int32_t end = narrow(static_cast<std::int64_t>(tables.ranges.size()));
    for (std::int64_t i = 0; i < prompt.rows; ++i) {
      const std::int64_t skipped = std::max<std::int64_t>(i - without, 0);
      tables.keys.push_back({narrow(prompt.first_row + i),
                             {narrow(prompt_query + skipped), narrow(prompt_queries - skipped)},
                             begin,
                             end});
    }
  }
  return tables;
}

struct PlacedTables {
  PlacedTables(Upload& upload, const HostTables& tables)
      : queries(upload.add(tables.queries)),
        keys(upload.add(tables.keys)),
        ranges(upload.add(tables.ranges)) {}
  BackwardTables at(const Upload& upload) const {
    return {upload.at(queries), upload.at(keys), upload.at(ranges)};
  }
  Upload::Place<QueryKeys> queries;
  Upload::Place<KeyQueries> keys;
  Upload::Place<QueryRange> ranges;
};

struct PlacedTiles {
  PlacedTiles(Upload& upload, const BatchTiles& tiles)
      : forward(upload.add(tiles.forward.tiles)),
        own(upload.add(tiles.forward.own)),
        backward(upload.add(tiles.backward)),
        keys(upload.add(tiles.keys.blocks)),
        runs(upload.add(tiles.keys.runs)) {}
  TileTables at(const Upload& upload) const {
    return {{upload.at(forward), upload.at(own)}, {upload.at(backward), upload.at(keys), upload.at(runs)}};
  }
  Upload::Place<QueryTile> forward;
  Upload::Place<KeyRun> own;
  Upload::Place<QueryTile> backward;
  Upload::Place<KeyBlock> keys;
  Upload::Place<QueryRun> runs;
};

struct HostSums {
  std::vector<std::int64_t> targets, first{0}, sources;
};

/// For each output, the picks that are added to it, in order.
HostSums sums_of(const std::vector<std::int64_t>& targets) {
  std::map<std::int64_t, std::vector<std::int64_t>> sources;
  for (std::size_t i = 0; i < targets.size(); ++i)
    sources[targets[i]].push_back(static_cast<std::int64_t>(i));
  HostSums sums;
  for (const auto& [target, from] : sources) {
    sums.targets.push_back(target);
    sums.sources.insert(sums.sources.end(), from.begin(), from.end());
    sums.first.push_back(static_cast<std::int64_t>(sums.sources.size()));
  }
  return sums;
}

std::vector<std::int64_t> ids_of(const RowBatch& batch, std::int64_t vocabulary) {
  std::vector<std::int64_t> ids = batch.ids;
  for (const FeatureRows& f : batch.features) {  // these rows use no embedding
    std::fill_n(ids.begin() + f.first_row, f.features.rows(), 0);
  }
  for (const std::int64_t id : ids)
    CHECK(id >= 0 && id < vocabulary) << "token id " << id << " of " << vocabulary;
  return ids;
}

}  // namespace

CudaPlan::CudaPlan(const RowBatch& batch, RotaryTable& rotary, const HeadShape& heads, DType compute,
                   std::int64_t vocabulary, CudaMemory& memory)
    : BatchPlan(batch.rows(), batch.outputs(), static_cast<std::int64_t>(batch.picks.size())),
      features(batch.features),
      tiled(tiles_fit(heads, compute)) {
  Tensor host_cosines(DType::f32, rows, heads.head_dim / 2, "activations");
  Tensor host_sines(DType::f32, rows, heads.head_dim / 2, "activations");
  rotary.fill(batch.positions, host_cosines.view(), host_sines.view());
  cosines = copied_to(memory, host_cosines.view(), "activations");
  sines = copied_to(memory, host_sines.view(), "activations");

  std::vector<std::int32_t> pages;
  std::vector<QueryRow> queries(static_cast<std::size_t>(rows));
  std::vector<QueryRow> last_queries;
  std::vector<std::int64_t> last_rows;
  for (const SequenceRows& s : batch.sequences) {
    const std::int32_t first_page = narrow(static_cast<std::int64_t>(pages.size()));
    pages.insert(pages.end(), s.pages.begin(), s.pages.end());
    for (std::int64_t i = 0; i < s.rows; ++i) {
      const QueryRow query{first_page, narrow(s.preceding + i + 1)};
      queries[static_cast<std::size_t>(s.first_row + i)] = query;
      if (i < s.rows - s.outputs) continue;
      last_queries.push_back(query);
      last_rows.push_back(s.first_row + i);
    }
  }
  std::vector<std::uint64_t> last_keys;
  if (!batch.token_keys.empty()) {
    for (const std::int64_t row : last_rows)
      last_keys.push_back(batch.token_keys[static_cast<std::size_t>(row)]);
  }
  const HostSums sums = sums_of(batch.picks);

  const auto ids_place = upload_.add(ids_of(batch, vocabulary));
  const auto sampled_place = upload_.add(batch.sampled_rows);
  const auto writes_place = upload_.add(batch.writes);
  const auto pages_place = upload_.add(pages);
  const auto queries_place = upload_.add(queries);
  const auto last_queries_place = upload_.add(last_queries);
  const auto last_rows_place = upload_.add(last_rows);
  const auto picks_place = upload_.add(batch.picks);
  const auto targets_place = upload_.add(sums.targets);
  const auto first_place = upload_.add(sums.first);
  const auto sources_place = upload_.add(sums.sources);
  const auto keys_place = upload_.add(batch.token_keys);
  const auto last_keys_place = upload_.add(last_keys);
  const PlacedTables every(upload_, tiled ? HostTables{} : backward_tables(batch, false));
  const PlacedTables last(upload_, tiled ? HostTables{} : backward_tables(batch, true));
  const std::int64_t sharing = heads.heads / heads.kv_heads;
  const std::int64_t members = members_of_tile(batch, heads);
  const PlacedTiles every_tile(upload_, tiled ? batch_tiles(batch, sharing, false, members) : BatchTiles{});
  const PlacedTiles last_tile(upload_, tiled ? batch_tiles(batch, sharing, true, members) : BatchTiles{});
  upload_.commit(memory, "activations");
  ids = upload_.at(ids_place);
  if (batch.sampled != nullptr) {
    write_sampled(dynamic_cast<CudaSampled&>(*batch.sampled).on_device(), upload_.at(sampled_place),
                  const_cast<std::int64_t*>(ids.data), memory.stream());
  }
  writes = upload_.at(writes_place);
  page_table = upload_.at(pages_place);
  every_query = upload_.at(queries_place);
  output_query = upload_.at(last_queries_place);
  output_rows = upload_.at(last_rows_place);
  pick_outputs = upload_.at(picks_place);
  pick_sums = {upload_.at(targets_place), upload_.at(first_place), upload_.at(sources_place)};
  every_key = upload_.at(keys_place);
  output_key = upload_.at(last_keys_place);
  every_backward = every.at(upload_);
  output_backward = last.at(upload_);
  every_tiles = every_tile.at(upload_);
  output_tiles = last_tile.at(upload_);
}

}  // namespace biqa::cuda
