// SPDX-License-Identifier: Apache-2.0
// Draws further images for a step some of whose groups teach nothing (rollout.refill_rounds).
#pragma once

#include "actor/options.h"
#include "comm/communicator.h"
#include "comm/roles.h"
#include "config/config.h"
#include "training/actor_role.h"
#include "training/learner_role.h"
#include "training/messages.h"
#include "training/reward_role.h"
#include "training/training_data.h"

namespace biqa {

/// A rank's part of a step; nullptr: it does not have this role.
struct StepRoles {
  const Config& config;
  Communicator& world;
  const RolePlan& roles;
  const TrainingData& data;
  ActorRole* actor;
  RewardRole* reward;
  LearnerRole* learner;
};

/// Call it on every rank after the step's own rows are rolled out and scored. The learners receive their groups and count
/// those with any variance of rewards. While these are fewer than the step's own rows, further rows are rolled out,
/// scored and received, at most rollout.refill_rounds times. The first learner warns if they are still fewer after
/// that.
///
/// The groups do not depend on the ranks. Every learner has all groups and gets the same count. The other ranks get the
/// number of lacking groups from the first learner. The rows depend only on the step and on these numbers. `options`:
/// those of the step. Adds the seconds of this rank to `report`.
void refill_step(const StepRoles& own, const RolloutOptions& options, StepReport& report);

}  // namespace biqa
