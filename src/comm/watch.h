// SPDX-License-Identifier: Apache-2.0
// Watches the ranks of a job. If a rank dies, is stopped, is cut off or fails, the others know it within seconds, even
// during long computations.
#pragma once

#include <optional>
#include <string>

#include "comm/communicator.h"
#include "core/error.h"

namespace biqa {

/// A rank that is lost, so that the job must end.
struct LostRank {
  int rank = 0;
  bool failed = false;  ///< it reported its own failure; otherwise it became silent
  int exit_code = 1;    ///< exit code of the job
  Seconds ago{0};       ///< time since this rank noticed it
};

class Watch {
 public:
  virtual ~Watch() = default;
  /// The first loss that this rank knows of, or nothing. May be called from any thread.
  virtual std::optional<LostRank> loss() const = 0;
  /// Reports to the others that this rank has failed, so that they need not wait until it counts as silent.
  virtual void tell_failure(int exit_code) = 0;
};

/// The job ends because of another rank, and this has already been reported. Catch it without printing anything.
class PeerLost : public Error {
 public:
  using Error::Error;
};

/// Times of a watch; the same on all ranks.
struct WatchTimes {
  Seconds beat{1};      ///< between two heartbeats
  Seconds silence{10};  ///< a rank without heartbeats for this time counts as lost
  Seconds grace{12};    ///< from the loss until the process ends the job by force
};

}  // namespace biqa
