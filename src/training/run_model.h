// SPDX-License-Identifier: Apache-2.0
// The model and the initial adapter of a run.
#pragma once

#include <memory>
#include <optional>

#include "config/config.h"
#include "learner/checkpoint_reader.h"
#include "policy/policy.h"
#include "training/learner_role.h"

namespace biqa {

/// Parts of adapters that must be read before the weights are loaded.
struct StartParts {
  std::optional<Lora> given;  ///< model.adapter
  std::shared_ptr<const FrozenParts>
      frozen;  ///< to be merged into the weights: from the checkpoint, otherwise from model.adapter
};
/// Reads model.adapter, and the checkpoint's parts on frozen modules. Throws Error if the two differ in these parts.
StartParts read_start_parts(const Config& config, const std::optional<FoundCheckpoint>& found);

/// Opens the model on every rank of `world`. `backward`: this rank is a learner. Writes the image limits in use into
/// `config`, because config.yaml records them. Collective.
Policy open_run_policy(Config& config, Communicator& world, int threads, bool backward,
                       const std::shared_ptr<const FrozenParts>& frozen);

/// The adapter of step 0: model.adapter, or a new one. Writes rank, alpha and targets of model.adapter into `config`;
/// the `first` learner warns if the configuration sets others. Throws Error if model.adapter has nothing to train.
StartAdapter make_start_adapter(Config& config, StartParts parts, const Policy& policy, bool first);

}  // namespace biqa
