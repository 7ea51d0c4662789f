// SPDX-License-Identifier: Apache-2.0
// A training run on this rank: which role it plays is the plan's decision, the code is the same for one rank and many.
//
// One step:
//   actors   roll out images, each as soon as it is free, and send each group to the reward rank of its sample
//   rewards  score groups and send them to every learner
//   learners compute advantages over the whole step, learn from their share, and hold the whole new adapter
//   boundary the first learner sends the adapter to the actors, which acknowledge it by digest, and says how long the
//            run goes on
// Actors roll step s out with the adapter of step s - 1 - lag (docs/decisions/0007-exact-lag.md): with lag 0 everything
// is on-policy, with lag 1 the rollout of a step runs beside the learning of the one before.
#pragma once

#include "comm/communicator.h"
#include "comm/watch.h"
#include "config/config.h"
#include "core/error.h"
#include "core/stop_signals.h"

namespace biqa {

/// Runs until the configured steps are done or a stop is asked for. Throws Error. When `watch` (nullptr: none) sees
/// another rank lost, the learners save the last whole step where they can, then it throws PeerLost.
ExitCode run_training(const Config& config, Communicator& world, StopSignals& signals,
                      Watch* watch = nullptr);

}  // namespace biqa
