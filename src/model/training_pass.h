// SPDX-License-Identifier: Apache-2.0
// The seam between learning and network: forward gives the log-probability of every completion token, backward takes
// the loss's derivative with respect to each. A group's prompt is computed once, in forward and in backward.
#pragma once

#include <memory>
#include <optional>
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
  /// Accumulates the adapter's gradient [1, n] f32, in the backend's memory: Σ d_logp · ∂logp/∂adapter. Once after each
  /// forward with `gradient`.
  void backward(const TokenValues& d_logp, View gradient);

 private:
  /// Packs the groups; targets of the picks.
  std::vector<std::int64_t> pack(std::span<const PromptGroup> groups);
  void add_group(const PromptGroup& group, BatchBuilder& builder, std::size_t& next_sequence,
                 std::vector<std::int64_t>& targets);
  void make_room(std::span<const PromptGroup> groups);
  void release();

  const QwenVl& model_;
  const PackedAdapter* adapter_;
  PassOptions options_;
  std::optional<KvCache> cache_;
  std::vector<KvSequence> sequences_;
  std::unique_ptr<BatchPlan> plan_;
  std::unique_ptr<Tape> tape_;
  Tensor d_picked_;  // [scored tokens, hidden]: ∂logp/∂hidden
};

}  // namespace biqa
