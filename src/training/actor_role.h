// SPDX-License-Identifier: Apache-2.0
// A rank that acts: it rolls out the images of a step, each group to its reward rank.
#pragma once

#include <cstdint>

#include "actor/engine.h"
#include "actor/rollout.h"
#include "comm/roles.h"
#include "config/config.h"
#include "policy/policy.h"
#include "training/training_data.h"
#include "training/work_share.h"

namespace biqa {

/// What the configuration says of a rollout, for `step` with this version of the adapter.
RolloutOptions rollout_options(const Config& config, std::int64_t step, std::int64_t version,
                               std::uint64_t digest);

class ActorRole {
 public:
  /// Borrows all of them. Makes room for keys and values.
  ActorRole(const Config& config, const Policy& policy, Communicator& world, const RolePlan& roles,
            const TrainingData& data);

  /// Samples with this adapter from now on.
  void set_adapter(const Lora& adapter);

  struct RolloutSeconds {
    double all = 0, stage2 = 0;
  };
  /// Rolls out rows of `options.step` as long as the other actors leave some (WorkShare). Each group goes to the reward
  /// rank of its row as soon as it ends.
  RolloutSeconds roll_out(const RolloutOptions& options);

  /// For evaluations.
  Rollout& rollout() { return rollout_; }

 private:
  class Source;
  const Policy& policy_;
  Communicator& world_;
  const RolePlan& roles_;
  const TrainingData& data_;
  Engine engine_;
  Rollout rollout_;
  WorkShare share_;
};

}  // namespace biqa
