// SPDX-License-Identifier: Apache-2.0
// Updates the adapter from scored groups. Each learner works on its own groups and owns one shard of the adapter's
// values and moments. After an update every learner has the whole adapter again.
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
#include "learner/options.h"
#include "model/lora.h"
#include "model/training_pass.h"

namespace biqa {

/// One completion to learn from; spans are borrowed.
struct LearnerSequence {
  std::span<const std::int64_t> completion;
  std::span<const float> behaviour_logp;  ///< empty for sft
  /// empty: every token counts; all 0: the sequence counts, but none of its tokens
  std::span<const float> mask;
  double advantage = 0;
  std::uint64_t member = 0;  ///< index in its group; part of the key of the completion's dropout
  std::span<const float> token_advantages{};  ///< of each token; empty: each has `advantage`
};

/// Completions that share a prompt.
struct LearnerGroup {
  std::shared_ptr<const PromptInput> prompt;
  std::vector<LearnerSequence> sequences;
  std::uint64_t dropout_key = 0;
  bool dropped = false;  ///< ignored; its sequences are not counted either
  std::string name{};    ///< the sample's id, for messages
};

/// Results of one sequence of an update, for dumps. Sequences are in the order of the groups.
struct SequenceResult {
  std::vector<float> learner_logp, reference_logp, token_loss;
};

/// Metrics of one update, over all learners.
struct UpdateResult {
  double loss = 0, kl = 0, entropy = 0;  ///< kl and entropy: mean over tokens
  double ratio_max_deviation = 0, logp_max_gap = 0, clip_fraction = 0;
  double grad_norm = 0;  ///< before clipping
  double tokens = 0;
  double optimizer_seconds = 0;  ///< reduce-scatter, update and all-gather
  bool skipped = false;          ///< the loss or the gradient was not finite: nothing changed
};

class Learner {
 public:
  /// The values that update() reduces over the learners. One sum reduces all counts and another all sums. Each maximum
  /// has a reduction of its own.
  enum Count : std::uint8_t { kSequences, kTokens, kCounts };
  enum Sum : std::uint8_t {
    kSumOfLoss,
    kSumOfKl,
    kSumOfEntropy,
    kSumOfClipped,
    kSumOfTokens,
    kSumOfSquares,
    kSumsOfUpdate
  };
  enum Maximum : std::uint8_t { kRatioDeviation, kLogpGap, kMaxima };
  /// Number of these reductions, and of their values.
  static constexpr int kReductions = 1 + 1 + int{kMaxima};
  static constexpr int kReducedValues = int{kCounts} + int{kSumsOfUpdate} + int{kMaxima};

  /// `start`: the adapter from which training starts. `reference`: the adapter of the KL term (nullptr: the base
  /// model). `learners`: all learners; they call the collectives in the same order.
  Learner(const QwenVl& model, Lora start, std::shared_ptr<const PackedAdapter> reference,
          Communicator& learners, LearnerOptions options);

  const Lora& adapter() const { return adapter_; }
  std::int64_t updates() const { return updates_; }
  /// False while an update has changed this rank's shard but not yet received the others. Do not save then.
  bool whole() const { return whole_; }

  /// One update from this rank's groups. A warning names each group whose loss is not finite. If the total loss or the
  /// gradient is not finite, every learner skips the update, so that one bad completion does not end a run. `records`
  /// receives the results of this rank's sequences. Sequences without weight are computed only for `records`.
  UpdateResult update(std::span<const LearnerGroup> groups, double lr,
                      std::vector<SequenceResult>* records = nullptr);
  /// The last update's gradient, summed over the learners, before clipping. Collective.
  std::vector<float> collect_gradient();
  /// The whole moments, gathered from the shards. Collective.
  void collect_moments(std::vector<float>& m, std::vector<float>& v);

  /// State of this rank's shard, for checkpoints.
  struct Shard {
    std::size_t begin = 0, end = 0;       ///< of the unpadded flat vector
    std::span<const float> values, m, v;  ///< valid until the learner changes or shard() is called again
  };
  Shard shard() const;
  /// Sets the whole state. Vectors have the layout's size.
  void restore(std::span<const float> values, std::span<const float> m, std::span<const float> v,
               std::int64_t updates);
  /// As restore, but from values, m and v of this rank's range only: shard().begin … end. Collective.
  void restore_shard(std::span<const float> values, std::span<const float> m, std::span<const float> v,
                     std::int64_t updates);

 private:
  /// A new f32 tensor [1, size] in the backend's memory.
  Tensor flat(std::size_t size) const;
  /// This rank's range of the unpadded flat vector.
  std::pair<std::size_t, std::size_t> own_range() const;
  /// Gathers the learners' shards of the values, so that every learner has all values.
  void gather_values();
  /// The shards of all ranks, without the padding.
  std::vector<float> gathered(const Tensor& shard);
  /// Copies host values to the beginning of a shard.
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
  // In the backend's memory, [1, n] f32. gradient_ is padded to learners · shard_size_. The others hold this rank's
  // shard.
  Tensor gradient_, shard_gradient_, values_, m_, v_;
  mutable Tensor host_m_, host_v_;  // host copies for shard(), unless the backend's memory is the host's
  std::int64_t updates_ = 0;
  bool whole_ = true;
};

/// Splits groups into pieces of at most `tokens` packed rows, then packs the pieces in order into micro-batches. A
/// prompt with a single completion is never split, so such a piece may be larger.
std::vector<std::vector<LearnerGroup>> plan_micro_batches(std::span<const LearnerGroup> groups,
                                                          std::int64_t tokens);

}  // namespace biqa
