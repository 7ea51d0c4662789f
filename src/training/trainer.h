// SPDX-License-Identifier: Apache-2.0
// Runs training on this rank. RolePlan decides which roles the rank plays; the code is the same for one rank and many.
//
// One step:
//   actors    sample completions and send each group to the reward rank of its sample; a free actor takes the next image
//   rewards   score groups and send them to every learner
//   learners  compute advantages over the whole step, learn from their shares, and exchange the new adapter
//   boundary  the first learner sends the adapter to the actors and says which step is the last; the actors confirm the
//             adapter by its digest
// Actors sample step s with the adapter of step s - 1 - lag (docs/decisions/0007-exact-lag.md). With lag 0 everything is
// on-policy. With lag 1 a step is sampled while the one before is learned.
#pragma once

#include <functional>

#include "comm/communicator.h"
#include "comm/watch.h"
#include "config/config.h"
#include "core/error.h"
#include "core/stop_signals.h"

namespace biqa {

/// Runs until the configured steps are done or a stop is requested. Throws Error. If `watch` (may be nullptr) reports
/// that another rank is lost, the learners save the last completed step if they can. Then run_training throws PeerLost.
///
/// `before_loading` is called on every rank before the model is loaded. At this time, child processes have checked all
/// files, so this is the first moment at which a GPU may be opened.
ExitCode run_training(const Config& config, Communicator& world, StopSignals& signals, Watch* watch = nullptr,
                      const std::function<void()>& before_loading = {});

}  // namespace biqa
