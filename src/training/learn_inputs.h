// SPDX-License-Identifier: Apache-2.0
// Prepares scored groups for the learner: which completions count, their order and their dropout keys.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "actor/pictures.h"
#include "config/config.h"
#include "data/trajectory.h"
#include "learner/learner.h"
#include "training/credit.h"

namespace biqa {

/// For each group of a step: true if it is left out of the loss because all its completions have the same reward
/// (objective.drop_zero_variance).
std::vector<bool> dropped_groups(std::span<const Group> groups, const Config& config);

/// Whether a completion's tokens are in the loss (objective.mask_truncated).
bool counts(bool finished, const Config& config);

/// Whether the second-stage completion is also trained on.
bool learns_stage2(const Trajectory& trajectory, const Config& config);

/// Keys for the dropout masks of a group and of a member's second-stage completion.
std::uint64_t dropout_key(const Group& group);
std::uint64_t stage2_dropout_key(const Group& group, std::int64_t member);

/// A learner's share of a step. Borrows the groups' tokens, log-probabilities and token advantages.
class LearnInputs {
 public:
  LearnInputs(std::span<const Group> groups, const Config& config, const ModelConfig& model);

  /// Adds groups[index] with its image, then every second-stage completion of the group that is trained on.
  void add(std::size_t index, const EncodedPicture& picture);
  std::span<const LearnerGroup> groups() const { return inputs_; }

 private:
  std::span<const float> mask_of(bool finished, std::size_t tokens) const;

  std::span<const Group> groups_;
  const Config& config_;
  const ModelConfig& model_;
  std::vector<bool> dropped_;
  std::vector<float> zeros_;  // as long as the longest completion
  std::vector<LearnerGroup> inputs_;
};

}  // namespace biqa
