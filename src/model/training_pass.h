// SPDX-License-Identifier: Apache-2.0
// The seam between learning and network: forward gives the log-probability of every completion token, backward takes
// the loss's derivative with respect to each. A group's prompt is computed once, in forward and in backward.
#pragma once

#include <span>
#include <vector>

#include "model/qwen_vl.h"

namespace biqa {

/// Completions that share a prompt.
struct PromptGroup {
  const PromptInput* prompt = nullptr;
  std::vector<std::span<const std::int64_t>> completions;
  std::uint64_t dropout_key = 0;             ///< names the group; only with dropout
  std::vector<std::uint64_t> member_keys{};  ///< name the completions in the group; empty: 0, 1, …
};

/// Per group, per member, per completion token.
using TokenValues = std::vector<std::vector<std::vector<float>>>;

struct PassOptions {
  float temperature = 1.0F;
  bool gradient = false;
  bool recompute_layers = false;
  DropoutKey dropout;
};

class TrainingPass {
 public:
  TrainingPass(const QwenVl& model, const PackedAdapter* adapter, PassOptions options)
      : model_(model), adapter_(adapter), options_(options) {}

  /// Packed rows the groups take.
  static std::int64_t rows_of(const PromptGroup& group);
  /// Log-probabilities at the sampling temperature and the entropies of those softmaxes.
  void forward(std::span<const PromptGroup> groups, TokenValues& logp, TokenValues& entropy);
  /// Accumulates the adapter's gradient: Σ d_logp · ∂logp/∂adapter. Once after each forward with `gradient`.
  void backward(const TokenValues& d_logp, std::span<float> gradient);

 private:
  void release();

  const QwenVl& model_;
  const PackedAdapter* adapter_;
  PassOptions options_;
  RowBatch batch_;
  std::optional<KvCache> cache_;
  std::vector<KvSequence> sequences_;
  TapePointer tape_;
  std::vector<std::int64_t> scored_rows_;  // output row that scores each completion token
  Tensor d_hidden_;                        // [scored tokens, hidden]: ∂logp/∂hidden
  std::int64_t outputs_ = 0;
};

}  // namespace biqa
