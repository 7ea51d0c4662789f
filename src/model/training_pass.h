// SPDX-License-Identifier: Apache-2.0
// The interface between learning and network. Forward returns the log-probability of every completion token. Backward
// takes the derivative of the loss with respect to each of them. A group's prompt is computed once per pass.
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
  std::uint64_t dropout_key = 0;             ///< key of the group; used only with dropout
  std::vector<std::uint64_t> member_keys{};  ///< keys of the completions in the group; empty: 0, 1, …
};

/// Values per group, member and completion token.
using TokenValues = std::vector<std::vector<std::vector<float>>>;

struct PassOptions {
  float temperature = SampleRequest{}.temperature;
  bool gradient = false;
  bool recompute_layers = false;
  DropoutKey dropout;
};

class TrainingPass {
 public:
  TrainingPass(const QwenVl& model, const PackedAdapter* adapter, PassOptions options)
      : model_(model), adapter_(adapter), options_(options) {}

  /// Number of packed rows of a group.
  static std::int64_t rows_of(const PromptGroup& group);
  /// Computes log-probabilities at `temperature` and the entropy of each softmax.
  void forward(std::span<const PromptGroup> groups, TokenValues& logp, TokenValues& entropy);
  /// Adds Σ d_logp · ∂logp/∂adapter to `gradient` [1, n] f32, in the backend's memory. Call it once after each forward
  /// with `PassOptions::gradient`.
  void backward(const TokenValues& d_logp, View gradient);

 private:
  /// Packs the groups. Returns the target tokens of the picks.
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
