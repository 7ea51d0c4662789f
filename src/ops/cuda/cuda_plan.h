// SPDX-License-Identifier: Apache-2.0
// The tables of a batch that the decoder's kernels read. They depend only on the batch and are uploaded once.
#pragma once

#include "ops/cuda/attention_tiles.h"
#include "ops/cuda/rows.h"
#include "ops/decoder.h"
#include "ops/rotary.h"
#include "tensor/cuda/memory.h"

namespace biqa::cuda {

/// The attention tiles of a set of query rows.
struct TileTables {
  ForwardTable forward;
  TileBackwardTables backward;
};

struct CudaPlan final : BatchPlan {
  /// Checks ids against `vocabulary`. Uploads under the label "activations".
  CudaPlan(const RowBatch& batch, RotaryTable& rotary, const HeadShape& heads, DType compute,
           std::int64_t vocabulary, CudaMemory& memory);
  /// Whether some rows are not outputs. Then the last layer computes fewer rows than the others.
  bool compact() const { return outputs < rows; }

  Tensor cosines, sines;              // [rows, head_dim/2] f32
  std::vector<FeatureRows> features;  // forward() reads the views
  DeviceSpan<std::int64_t> ids;       // 0 for rows of features; sampled tokens are written after the upload
  DeviceSpan<KvWrite> writes;
  DeviceSpan<std::int32_t> page_table;
  DeviceSpan<std::int64_t> output_rows;             // [outputs] packed rows
  DeviceSpan<std::int64_t> pick_outputs;            // [picks]
  RowSums pick_sums;                                // which picks are added to which output
  DeviceSpan<std::uint64_t> every_key, output_key;  // token keys; only with dropout
  // Tables of attention. `every_…`: all rows have queries. `output_…`: only outputs have queries, numbered by output.
  // `tiled`: the kernels on tensor cores are used; then the tables for single rows of the backward pass are empty.
  // Otherwise the tiles are empty.
  bool tiled;
  TileTables every_tiles, output_tiles;
  DeviceSpan<QueryRow> every_query, output_query;
  BackwardTables every_backward, output_backward;

 private:
  Upload upload_;
};

}  // namespace biqa::cuda
