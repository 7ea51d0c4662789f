// SPDX-License-Identifier: Apache-2.0
#include "planning/step_parts.h"

namespace biqa {

DecoderFlop::DecoderFlop(const ModelConfig& config) : flop_(config) {
  const Widths w(config.text);
  qkv_row_ = 2 * static_cast<double>(w.qkv_weights());
  behind_row_ = 2 * static_cast<double>(w.layer_weights() - w.qkv_weights());
  key_ = 4 * static_cast<double>(w.q);
}

double DecoderFlop::forward(const PassRows& rows) const {
  const double skipped = rows.rows - rows.outputs;
  return flop_.layers(rows.rows, rows.keys) - skipped * (behind_row_ + key_ * rows.keys);
}

double DecoderFlop::learn(const PassRows& rows, const LearnerPasses& passes) const {
  const double forward_passes = 1 + (passes.reference ? 1 : 0) + (passes.recompute ? 1 : 0);
  return (forward_passes + 1) * forward(rows) - rows.rows * qkv_row_;
}

}  // namespace biqa
