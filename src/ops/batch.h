// SPDX-License-Identifier: Apache-2.0
// The input of a decoder pass in host memory: rows, the places of their keys, and the wanted results.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace biqa {

class SampledTokens;

/// Shape of grouped-query attention.
struct HeadShape {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
};

/// The division of keys and values into pages.
struct KvLayout {
  std::int64_t page_tokens = 0;
  std::int64_t page_bytes = 0;  ///< of one page of one layer
};

using Position = std::array<std::int32_t, 3>;  ///< temporal, height, width

/// Row `row` of the packed keys and values is stored at `slot` of `page`.
struct KvWrite {
  std::int32_t row = 0, page = 0, slot = 0;
};

/// Rows whose embeddings are image features: `features.rows()` consecutive ones. `features` [rows, hidden] f32 are in
/// host memory or the backend's. They must live until forward() has returned.
struct FeatureRows {
  std::int64_t first_row = 0;
  ConstView features;
};

/// Consecutive tokens of one sequence in a packed batch.
struct SequenceRows {
  std::int64_t first_row = 0, rows = 0;
  std::int64_t preceding =
      0;  ///< tokens of the sequence before these rows: in the cache, or earlier in this batch
  std::int64_t outputs = 0;  ///< hidden states wanted: those of the last `outputs` rows
  std::vector<std::int32_t> pages{};
};

/// Members of `sequences` that form a prompt and the completions that follow it (training).
struct GroupRows {
  std::size_t prompt = 0;
  std::vector<std::size_t> members;
};

/// A row whose token was sampled for pick `pick` of RowBatch::sampled.
struct SampledRow {
  std::int64_t row = 0, pick = 0;
};

/// Packed rows, sequence after sequence, never padded. Outputs are numbered in the order of the sequences.
struct RowBatch {
  std::vector<std::int64_t> ids;    // [T]; ignored for rows of features and in `sampled_rows`
  std::vector<Position> positions;  // [T]
  std::vector<FeatureRows> features;
  std::vector<SequenceRows> sequences;
  std::vector<KvWrite> writes;
  std::vector<GroupRows> groups;          // only for backward
  std::vector<std::uint64_t> token_keys;  // [T]; only with dropout: key of the token
  /// For each scored or sampled token, the output from which it is computed. Several tokens may share an output.
  std::vector<std::int64_t> picks;
  /// Tokens of an earlier pass of the same decoder. The device may still be computing them. plan() does not wait for
  /// them if the backend's calls return before their work has finished.
  SampledTokens* sampled = nullptr;
  std::vector<SampledRow> sampled_rows;
  std::int64_t rows() const { return static_cast<std::int64_t>(ids.size()); }
  std::int64_t outputs() const {
    std::int64_t count = 0;
    for (const SequenceRows& s : sequences) count += s.outputs;
    return count;
  }
};

}  // namespace biqa
