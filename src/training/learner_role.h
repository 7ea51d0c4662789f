// SPDX-License-Identifier: Apache-2.0
// The learner's part of a step: it computes the next version of the adapter from scored groups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "config/config.h"
#include "learner/checkpoint_reader.h"
#include "learner/learner.h"
#include "policy/policy.h"
#include "run/records.h"
#include "training/adapter_exchange.h"
#include "training/group_inbox.h"
#include "training/learn_inputs.h"
#include "training/step_dump.h"
#include "training/training_data.h"

namespace biqa {

/// Distributes groups: the longest first, each to the least loaded learner. Returns the indexes of each learner's
/// groups. The result depends only on the groups, so every learner knows all shares.
using Shares = std::vector<std::vector<std::size_t>>;
Shares deal_groups(std::span<const Group> groups, std::size_t learners);

/// The initial adapter of training. `reference`: the adapter of the KL term; nullptr: the base model.
struct StartAdapter {
  Lora adapter;
  std::shared_ptr<const PackedAdapter> reference;
  std::optional<Lora> dumped_reference;  ///< `reference` for step dumps; only on the first learner
};

/// Result of one step. The same on every learner, except `seconds`.
struct LearnedStep {
  std::int64_t step = 0;
  std::size_t images = 0;
  std::vector<Group>
      groups;  ///< with advantages, in the order of the step's rows, then of further rows; empty for sft
  UpdateResult result;  ///< of the first update; clip_fraction and ratio_max_deviation cover all updates
  double zero_variance = kNotMeasured;  ///< fraction of the groups whose completions all have the same reward
  double lr = 0;                        ///< of the first update
  double seconds = 0;                   ///< of this learner, after it has received the last group
};

class LearnerRole {
 public:
  /// Borrows everything except `start`. `exchange` owns the adapter. `learners`: all learners.
  LearnerRole(const Config& config, const Policy& policy, Communicator& world, Communicator& learners,
              const TrainingData& data, AdapterExchange& exchange, StartAdapter start);

  /// Restores the state of a checkpoint, whose files `reader` has read. Collective over the learners.
  void resume(const FoundCheckpoint& found, CheckpointReader& reader);

  /// Receives the scored groups of these rows and adds them to those of the step. Returns how many of the step's groups
  /// have reward variance. Not for sft.
  std::size_t receive(std::int64_t step, std::span<const std::size_t> rows);
  /// Learns from all groups of the step, or from given completions (sft). Receives the groups first if receive() has not
  /// been called. Passes the new adapter to the exchange.
  /// Writes the step's dump if train.dump_steps contains the step. Collective over the learners. Throws Error if too
  /// many successive updates were not finite, or if a trajectory was sampled with a wrong adapter.
  LearnedStep learn_step(std::int64_t step);

  const Learner& learner() const { return learner_; }
  /// The last step that has changed the adapter; before the first one, the step of the checkpoint.
  std::int64_t learned_step() const { return learned_step_; }
  /// Whether this process has learned a step since it started or resumed.
  bool has_news() const { return learned_step_ != resumed_step_; }
  /// Whether an update is running.
  bool is_updating() const { return updating_; }
  /// Whether adapter and moments are those after learned_step(), so that a save may begin.
  bool is_between_steps() const {
    return learned_step_ > 0 && learner_.whole() && learner_.updates() == learned_updates_;
  }

 private:
  bool first() const { return learners_.rank() == 0; }
  std::size_t own_share() const { return static_cast<std::size_t>(learners_.rank()); }
  bool dumps(std::int64_t step) const;
  double rate() const;
  void learn_from_groups(LearnedStep& learned);
  void learn_from_answers(LearnedStep& learned, std::span<const std::size_t> rows);
  Group answer_of(std::int64_t step, std::size_t row, const EncodedPicture& picture) const;
  UpdateResult update(std::int64_t step, std::span<const Group> groups, const Shares& shares,
                      const LearnInputs& inputs, bool dump);
  void note_skipped(std::int64_t step, const UpdateResult& result);
  void write_dump(std::span<const Group> groups, const Shares& shares,
                  std::span<const SequenceResult> sequences, StepDump record);

  const Config& config_;
  const Policy& policy_;
  Communicator& learners_;
  const TrainingData& data_;
  AdapterExchange& exchange_;
  const bool imitates_;
  GroupInbox inbox_;
  std::vector<Group> groups_;  // of the step that is not learned yet
  std::optional<Lora> dumped_reference_;
  Learner learner_;
  std::int64_t learned_step_ = 0, learned_updates_ = 0, resumed_step_ = 0;
  bool updating_ = false;
  int skipped_ = 0;  // successive skipped updates
};

}  // namespace biqa
