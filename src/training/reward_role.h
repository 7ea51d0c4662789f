// SPDX-License-Identifier: Apache-2.0
// A rank that scores: groups from the actors, rewards to every learner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/roles.h"
#include "config/config.h"
#include "training/group_inbox.h"

namespace biqa {

class RewardRole {
 public:
  /// Borrows all of them.
  RewardRole(const Config& config, Communicator& world, const RolePlan& roles);

  /// Receives the groups of a step that this rank scores, in any order, and sends each to every learner. `rows`: of
  /// the training manifest, all rows of the step. Returns the seconds that scoring took.
  double score_step(std::int64_t step, std::span<const std::size_t> rows);

 private:
  const Config& config_;
  Communicator& world_;
  const RolePlan& roles_;
  GroupInbox inbox_;
};

}  // namespace biqa
