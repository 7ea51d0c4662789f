// SPDX-License-Identifier: Apache-2.0
// Scored groups to the next version of the adapter. Each learner works on its groups, owns one shard of the
// adapter's values and moments, and after an update every learner holds the whole adapter again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/tensor_link.h"
#include "learner/adamw.h"
#include "learner/objective.h"
#include "model/lora.h"
#include "model/training_pass.h"

namespace biqa {

/// One completion to learn from; spans are borrowed.
struct LearnerSequence {
  std::span<const std::int64_t> completion;
  std::span<const float> behaviour_logp;  ///< empty for sft
  std::span<const float> mask;            ///< empty: every token counts; all 0: only counts as a sequence
  double advantage = 0;
  std::uint64_t member = 0;  ///< of its group; names the completion's dropout
};

/// Completions that share a prompt.
struct LearnerGroup {
  std::shared_ptr<const PromptInput> prompt;
  std::vector<LearnerSequence> sequences;
  std::uint64_t dropout_key = 0;
  bool dropped = false;  ///< counts for nothing, not even as sequences
  std::string name{};    ///< for messages: the sample's
};

struct LearnerOptions {
  ObjectiveConfig objective;
  AdamWConfig adamw;
  double max_grad_norm = 1.0;
  float temperature = 1.0F;
  double longest_allowed = 0;  ///< completion tokens; for dr_grpo
  std::int64_t micro_batch_tokens = 8192;
  bool recompute_layers = false;
  double dropout = 0;
  std::uint64_t seed = 0;
};

/// Per sequence of an update, in order of groups: for dumps.
struct SequenceResult {
  std::vector<float> learner_logp, reference_logp, token_loss;
};

/// Figures of one update, over all learners.
struct UpdateResult {
  double loss = 0, kl = 0, entropy = 0;  ///< kl and entropy: mean over tokens
  double ratio_max_deviation = 0, logp_max_gap = 0, clip_fraction = 0;
  double grad_norm = 0;  ///< before clipping
  double tokens = 0;
  double optimizer_seconds = 0;  ///< reduction, update and gathering of the adapter
  bool skipped = false;          ///< the loss or the gradient was not finite: nothing changed
};

class Learner {
 public:
  /// Small sums and maxima over the learners in update(), and how many values they have together.
  static constexpr int kSums = 4, kSummedValues = 2 + 6 + 1 + 1;

  /// `start` is what training starts from; `reference` the adapter the KL term holds on to (nullptr: the base
  /// model). `learners`: this rank's peers; every one calls the collectives in step.
  Learner(const QwenVl& model, Lora start, std::shared_ptr<const PackedAdapter> reference,
          Communicator& learners, LearnerOptions options);

  const Lora& adapter() const { return adapter_; }
  std::int64_t updates() const { return updates_; }
  /// False while an update has changed the own shard and the others' are not here yet: nothing to save.
  bool whole() const { return whole_; }

  /// One update from this rank's groups. Where a loss is not finite, a warning names its group, and where their sum or the
  /// gradient is not, the update is skipped on every learner alike: one bad answer does not end a run.
  /// `records`, where given, receives what each own sequence gave; those without any weight are run for it alone.
  UpdateResult update(std::span<const LearnerGroup> groups, double lr,
                      std::vector<SequenceResult>* records = nullptr);
  /// The last update's gradient summed over learners, before clipping; whole on every learner after collect_gradient().
  std::vector<float> collect_gradient();
  /// Whole moments, gathered from the shards.
  void collect_moments(std::vector<float>& m, std::vector<float>& v);

  /// State of this rank's shard, for checkpoints.
  struct Shard {
    std::size_t begin = 0, end = 0;       ///< of the unpadded flat vector
    std::span<const float> values, m, v;  ///< of use until the learner changes
  };
  Shard shard() const;
  /// Puts the whole state back: flat vectors of the layout's size.
  void restore(std::span<const float> values, std::span<const float> m, std::span<const float> v,
               std::int64_t updates);
  /// As restore, from this rank's range alone: values, m and v of shard().begin … end. Collective.
  void restore_shard(std::span<const float> values, std::span<const float> m, std::span<const float> v,
                     std::int64_t updates);

 private:
  /// A range of the flat vector in the backend's memory.
  Tensor flat(std::size_t size) const;
  /// The range of this rank's shard that is not padding.
  std::int64_t own_count() const;
  /// Everyone's shard of the values to all.
  void gather_values();
  /// The shards of all ranks, without the padding.
  std::vector<float> gathered(const Tensor& shard);
  /// Puts host values at the beginning of a shard.
  void put(std::span<const float> values, Tensor& shard);
  struct Sums;
  DropoutKey dropout_of_update() const;
  TokenValues reference_values(std::span<const PromptGroup> inputs) const;
  void run_micro_batch(std::span<const LearnerGroup> groups, const BatchTotals& totals, Sums& sums,
                       std::vector<SequenceResult>* records);
  void look_at(std::span<const LearnerGroup> groups, std::vector<SequenceResult>& records) const;

  const QwenVl& model_;
  Lora adapter_;  // whole
  std::shared_ptr<const PackedAdapter> packed_, reference_;
  Communicator& learners_;
  LearnerOptions options_;
  DeviceMemory& memory_;
  std::unique_ptr<TensorLink> link_;
  std::size_t shard_size_ = 0;
  // In the backend's memory, [1, n] f32: the gradient padded to learners · shard_size_, the rest this rank's shard.
  Tensor gradient_, shard_gradient_, values_, m_, v_;
  mutable Tensor host_m_, host_v_;  // what shard() shows where the backend's memory is not the host's
  std::int64_t updates_ = 0;
  bool whole_ = true;
};

/// Splits groups so that no piece takes more than `tokens` packed rows, where possible (a single completion
/// behind its prompt is never split), then packs pieces in order into micro-batches.
std::vector<std::vector<LearnerGroup>> plan_micro_batches(std::span<const LearnerGroup> groups,
                                                          std::int64_t tokens);

}  // namespace biqa
