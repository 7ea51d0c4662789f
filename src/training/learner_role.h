// SPDX-License-Identifier: Apache-2.0
// A rank that learns: scored groups to the next version of the adapter.
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

/// Groups of each learner, as indexes: the longest first, each to the least loaded learner. A function of the groups alone,
/// so that every learner knows all shares.
using Shares = std::vector<std::vector<std::size_t>>;
Shares deal_groups(std::span<const Group> groups, std::size_t learners);

/// What training starts from. `reference`: what the KL term compares with; nullptr: the base model.
struct StartAdapter {
  Lora adapter;
  std::shared_ptr<const PackedAdapter> reference;
  std::optional<Lora> dumped_reference;  ///< the same for step dumps, on the first learner
};

/// One learned step. The same on every learner.
struct LearnedStep {
  std::int64_t step = 0;
  std::size_t images = 0;
  std::vector<Group>
      groups;           ///< with advantages, in the order of the step's rows; none where the loss imitates
  UpdateResult result;  ///< of the first update, but for what is said of clipping
  double zero_variance = kNotMeasured;  ///< share of the groups whose answers are all rewarded alike
  double lr = 0;                        ///< of the first update
  double seconds = 0;                   ///< of this learner, from the last group received
};

class LearnerRole {
 public:
  /// Borrows all but `start`. `exchange` holds the adapter; `learners`: this rank's peers.
  LearnerRole(const Config& config, const Policy& policy, Communicator& world, Communicator& learners,
              const TrainingData& data, AdapterExchange& exchange, StartAdapter start);

  /// Puts the state of a checkpoint in place; `reader` has read its files. Collective over the learners.
  void resume(const FoundCheckpoint& found, CheckpointReader& reader);

  /// Learns from all groups of the step, or from given answers, and hands the new adapter to the exchange. Writes the
  /// step's dump if one is asked for. Collective over the learners. Throws Error if too many updates in a row were not
  /// finite, or if a trajectory is of another adapter.
  LearnedStep learn_step(std::int64_t step);

  const Learner& learner() const { return learner_; }
  /// The last step that has changed the adapter; that of the checkpoint before the first one.
  std::int64_t learned_step() const { return learned_step_; }
  /// There is a step that no checkpoint of an earlier run of the program has.
  bool has_news() const { return learned_step_ != resumed_step_; }
  /// In the middle of an update.
  bool is_updating() const { return updating_; }
  /// Adapter and moments are those that learned_step() made: a checkpoint may be begun.
  bool is_between_steps() const {
    return learned_step_ > 0 && learner_.whole() && learner_.updates() == learned_updates_;
  }

 private:
  bool first() const { return learners_.rank() == 0; }
  std::size_t own_share() const { return static_cast<std::size_t>(learners_.rank()); }
  bool dumps(std::int64_t step) const;
  double rate() const;
  std::vector<Group> receive_groups(std::int64_t step, std::span<const std::size_t> rows);
  double assign_advantages(std::vector<Group>& groups) const;
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
  std::optional<Lora> dumped_reference_;
  Learner learner_;
  std::int64_t learned_step_ = 0, learned_updates_ = 0, resumed_step_ = 0;
  bool updating_ = false;
  int skipped_ = 0;  // updates in a row
};

}  // namespace biqa
