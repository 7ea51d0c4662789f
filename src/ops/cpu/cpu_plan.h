// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "ops/cpu/cpu_ops.h"
#include "ops/rotary.h"

namespace biqa::cpu {

/// The row sets of a batch. All layers except the last compute every row. The last layer computes keys and values of
/// every row, and everything else only for the output rows.
struct CpuPlan final : BatchPlan {
  CpuPlan(const RowBatch& description, RotaryTable& rotary, std::int64_t head_dim);
  /// Whether the last layer computes fewer rows than the others.
  bool compact() const { return outputs != rows; }

  RowBatch batch;
  std::vector<std::int64_t> output_rows;
  std::vector<std::uint64_t> output_keys;  // token keys of the output rows
  std::vector<AttentionRows> all_sequences, output_sequences;
  std::vector<SharedPromptRows> all_groups, output_groups;
  Tensor cosines, sines;  // [T, head_dim/2] f32
};

}  // namespace biqa::cpu
