// SPDX-License-Identifier: Apache-2.0
// A batch as the decoder's kernels need it: everything that depends on the rows alone, uploaded once.
#pragma once

#include "ops/cuda/attention_tiles.h"
#include "ops/cuda/rows.h"
#include "ops/decoder.h"
#include "ops/rotary.h"
#include "tensor/cuda/memory.h"

namespace biqa::cuda {

/// Attention's tiles of some query rows.
struct TileTables {
  DeviceSpan<QueryTile> forward;
  TileBackwardTables backward;
};

struct CudaPlan final : BatchPlan {
  /// Checks ids against `vocabulary`. Uploads under the label "activations".
  CudaPlan(const RowBatch& batch, RotaryTable& rotary, const HeadShape& heads, DType compute,
           std::int64_t vocabulary, CudaMemory& memory);
  /// Whether fewer rows are outputs than there are, so that the last layer need not compute them all.
  bool compact() const { return outputs < rows; }

  Tensor cosines, sines;              // [rows, head_dim/2] f32
  std::vector<FeatureRows> features;  // their views are read by the forward
  DeviceSpan<std::int64_t> ids;       // 0 for rows of features
  DeviceSpan<KvWrite> writes;
  DeviceSpan<std::int32_t> page_table;
  DeviceSpan<std::int64_t> output_rows;             // [outputs] packed rows
  DeviceSpan<std::int64_t> pick_outputs;            // [picks]
  RowSums pick_sums;                                // picks added to their outputs
  DeviceSpan<std::uint64_t> every_key, output_key;  // with dropout
  // Attention: of all rows, or with queries numbered by output. With tiles (on tensor cores), or row by row.
  bool tiled;
  TileTables every_tiles, output_tiles;
  DeviceSpan<QueryRow> every_query, output_query;
  BackwardTables every_backward, output_backward;

 private:
  Upload upload_;
};

}  // namespace biqa::cuda
