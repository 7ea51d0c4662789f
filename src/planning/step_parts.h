// SPDX-License-Identifier: Apache-2.0
// The parts of a step that run at different speeds, and the number of operations of each. A plan counts the operations of a whole step, and a
// measurement (planning/cpu_speed.h) counts those of what it runs. Both use the functions here.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/model_sizes.h"

namespace biqa {

/// One value for each part.
struct StepParts {
  double vision = 0;   ///< images through the vision tower
  double prefill = 0;  ///< prompts through the layers
  double decode = 0;   ///< generated tokens through the layers
  double sample = 0;   ///< logits of generated tokens, and their choice
  double learn = 0;    ///< the learner's passes through the layers
  double score = 0;    ///< log-probabilities in these passes, and their derivatives

  double rollout() const { return prefill + decode + sample; }
  double learning() const { return learn + score; }
  double all() const { return vision + rollout() + learning(); }
};

/// Some rows of a pass.
struct PassRows {
  double rows = 0;
  double keys = 0;     ///< to which a row attends, on average
  double outputs = 0;  ///< rows with an output: the last layer computes only keys and values of the others
};
/// A prompt: only its last row has an output.
inline PassRows prompt_rows(double tokens) {
  return {tokens, tokens / 2, 1};
}
/// A completion after `preceding` tokens: every row has an output.
inline PassRows completion_rows(double tokens, double preceding) {
  return {tokens, preceding + tokens / 2, tokens};
}

/// The passes of a learner over a micro-batch.
struct LearnerPasses {
  bool reference = true;   ///< a forward pass of the reference policy
  bool recompute = false;  ///< the backward pass computes each layer forward again
};

/// Operations of the language model, without the adapter's own.
class DecoderFlop {
 public:
  explicit DecoderFlop(const ModelConfig& config);
  /// A forward pass through the layers.
  double forward(const PassRows& rows) const;
  /// All passes of a learner through the layers. Nobody needs the gradient of the first layer's input.
  double learn(const PassRows& rows, const LearnerPasses& passes) const;
  /// Logits of rows.
  double sample(double rows) const { return flop_.head(rows); }
  /// Logits of rows in each pass of a learner, and the derivatives in one of them.
  double score(double rows, const LearnerPasses& passes) const {
    return (passes.reference ? 3 : 2) * flop_.head(rows);
  }

 private:
  ModelFlop flop_;
  double qkv_row_, behind_row_,
      key_;  ///< of one layer: per row for q, k and v; per row after attention; per row and key
};

}  // namespace biqa
