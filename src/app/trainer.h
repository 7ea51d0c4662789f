// SPDX-License-Identifier: Apache-2.0
// A training run on this rank: which role it plays is the plan's decision, the code is the same for one rank and many.
//
// One step, strictly on-policy:
//   actors   roll out their images and send each group to the reward rank of its sample
//   rewards  score groups and send them to every learner
//   learners compute advantages over the whole step, learn from their share, and hold the whole new adapter
//   the first learner sends the adapter to the actors, which acknowledge it by digest
#pragma once

#include <atomic>
#include <functional>

#include "app/config.h"
#include "comm/communicator.h"
#include "core/error.h"

namespace biqa {

/// Set by signal handlers.
struct StopSignals {
  std::atomic<bool> stop{false};  ///< finish the step, save, end with exit code 75
  std::atomic<bool> save{false};  ///< save at the end of the step, go on
};

/// Runs work that every rank does alike and without the others. Where it fails, the first rank that it fails
/// on throws; the others wait to be taken down, so that the reason is told once.
void run_alike(Communicator& world, const std::function<void()>& work);

/// Runs until the configured steps are done or a stop is asked for. Throws Error.
ExitCode run_training(const Config& config, Communicator& world, StopSignals& signals);

}  // namespace biqa
