// SPDX-License-Identifier: Apache-2.0
// Scored groups as the learner takes them: which answers count, in which order, under which dropout.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "actor/pictures.h"
#include "config/config.h"
#include "data/trajectory.h"
#include "learner/advantage.h"
#include "learner/learner.h"

namespace biqa {

/// Advantages of all trajectories of a step, group by group; every group has rollout.group_size members.
Advantages advantages_of(std::span<const Group> groups, const Config& config);

/// Per group of a step: it leaves the loss because its answers are all rewarded alike (objective.drop_zero_variance).
std::vector<bool> dropped_groups(std::span<const Group> groups, const Config& config);

/// Whether an answer's tokens are in the loss (objective.mask_truncated).
bool counts(bool finished, const Config& config);

/// Whether the answer from the caption alone is learned from as well.
bool learns_stage2(const Trajectory& trajectory, const Config& config);

/// Names of a group's dropout and of that of a member's second stage.
std::uint64_t dropout_key(const Group& group);
std::uint64_t stage2_dropout_key(const Group& group, std::int64_t member);

/// A learner's share of a step. Borrows the groups' tokens and log-probabilities.
class LearnInputs {
 public:
  LearnInputs(std::span<const Group> groups, const Config& config, const ModelConfig& model);

  /// Adds groups[index] over its picture, and behind it each second stage that is learned from.
  void add(std::size_t index, const EncodedPicture& picture);
  std::span<const LearnerGroup> groups() const { return inputs_; }

 private:
  std::span<const float> mask_of(bool finished, std::size_t tokens) const;

  std::span<const Group> groups_;
  const Config& config_;
  const ModelConfig& model_;
  std::vector<bool> dropped_;
  std::vector<float> zeros_;  // as long as the longest answer
  std::vector<LearnerGroup> inputs_;
};

}  // namespace biqa
