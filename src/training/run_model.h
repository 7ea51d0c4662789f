// SPDX-License-Identifier: Apache-2.0
// The model and the adapter that a run starts with.
#pragma once

#include <memory>
#include <optional>

#include "config/config.h"
#include "learner/checkpoint_reader.h"
#include "policy/policy.h"
#include "training/learner_role.h"

namespace biqa {

/// What is known before the weights are loaded.
struct StartParts {
  std::optional<Lora> given;  ///< model.adapter
  std::shared_ptr<const FrozenParts>
      frozen;  ///< merged into the weights: of the checkpoint, else of model.adapter
};
/// Reads model.adapter, and of the checkpoint what the weights need. Throws Error if the two have other parts on frozen
/// modules.
StartParts read_start_parts(const Config& config, const std::optional<FoundCheckpoint>& found);

/// Opens the model on every rank of `world`; `backward`: this one learns. The limits that the pictures get are written
/// into `config`, since config.yaml says what was used. Collective.
Policy open_run_policy(Config& config, Communicator& world, int threads, bool backward,
                       const std::shared_ptr<const FrozenParts>& frozen);

/// The adapter of step 0: model.adapter, or a fresh one. The shape of model.adapter is written into `config`, with a
/// warning on the `first` learner if something else was asked for. Throws Error if model.adapter has nothing to train.
StartAdapter make_start_adapter(Config& config, StartParts parts, const Policy& policy, bool first);

}  // namespace biqa
