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

#include <atomic>
#include <functional>

#include "app/config.h"
#include "comm/communicator.h"
#include "comm/watch.h"
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

/// The job ends because of another rank, which has said so, or of which it has been said; nothing is left to tell.
class PeerLost : public Error {
 public:
  using Error::Error;
};

/// Runs until the configured steps are done or a stop is asked for. Throws Error. When `watch` (nullptr: none) sees
/// another rank lost, the learners save the last whole step where they can, then it throws PeerLost.
ExitCode run_training(const Config& config, Communicator& world, StopSignals& signals,
                      Watch* watch = nullptr);

}  // namespace biqa
