// SPDX-License-Identifier: Apache-2.0
// The actor's part of a step: it samples the completions of images and sends each group to its reward rank.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "actor/engine.h"
#include "actor/rollout.h"
#include "comm/roles.h"
#include "config/config.h"
#include "policy/policy.h"
#include "training/training_data.h"
#include "training/work_share.h"

namespace biqa {

/// The configuration's rollout options, for `step` with this version of the adapter.
RolloutOptions rollout_options(const Config& config, std::int64_t step, std::int64_t version,
                               std::uint64_t digest);

class ActorRole {
 public:
  /// Borrows its arguments. Allocates the KV cache.
  ActorRole(const Config& config, const Policy& policy, Communicator& world, const RolePlan& roles,
            const TrainingData& data);

  /// Sets the adapter for sampling.
  void set_adapter(const Lora& adapter);

  struct RolloutSeconds {
    double all = 0, stage2 = 0;
  };
  /// Rolls out rows of `options.step` until WorkShare has no more. Sends each group to the reward rank of its row as
  /// soon as the group ends.
  RolloutSeconds roll_out(const RolloutOptions& options);
  /// Rolls out this actor's share of further rows of the step. Every actor calls it with the same rows.
  RolloutSeconds roll_out(const RolloutOptions& options, std::span<const std::size_t> rows);

  /// For evaluations.
  Rollout& rollout() { return rollout_; }

 private:
  class Source;
  void send(Group&& group);
  const Policy& policy_;
  Communicator& world_;
  const RolePlan& roles_;
  const TrainingData& data_;
  Engine engine_;
  Rollout rollout_;
  WorkShare share_;
};

}  // namespace biqa
