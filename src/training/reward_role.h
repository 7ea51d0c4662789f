// SPDX-License-Identifier: Apache-2.0
// The reward rank's part of a step: it scores groups of the actors and sends them to every learner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "comm/roles.h"
#include "config/config.h"
#include "reward/text_judge.h"
#include "training/group_inbox.h"

namespace biqa {

class RewardRole {
 public:
  /// Borrows config, world and roles. `judge` may be nullptr if the configured rewards need none.
  RewardRole(const Config& config, Communicator& world, const RolePlan& roles,
             std::unique_ptr<TextJudge> judge);

  /// Receives this rank's groups of a step in any order, scores them and sends each to every learner. `rows`: all rows
  /// of the training manifest in this step. Returns the seconds of scoring.
  double score_step(std::int64_t step, std::span<const std::size_t> rows);

 private:
  const Config& config_;
  Communicator& world_;
  const RolePlan& roles_;
  std::unique_ptr<TextJudge> judge_;
  GroupInbox inbox_;
};

}  // namespace biqa
