// SPDX-License-Identifier: Apache-2.0
// Who is still there: a rank that dies, is stopped, is cut off or has failed becomes known to the others within
// seconds, however long the computation that they wait for may take.
#pragma once

#include <optional>
#include <string>

#include "comm/communicator.h"
#include "core/error.h"

namespace biqa {

/// A rank that the job cannot go on without.
struct LostRank {
  int rank = 0;
  bool failed = false;  ///< it said so itself; otherwise it fell silent
  int exit_code = 1;    ///< the job's
  Seconds ago{0};       ///< since this rank knows
};

class Watch {
 public:
  virtual ~Watch() = default;
  /// The first loss that this rank knows of, nothing while all is well. Any thread.
  virtual std::optional<LostRank> loss() const = 0;
  /// Tells the others that this rank has failed, so that they need not wait for its silence.
  virtual void tell_failure(int exit_code) = 0;
};

/// The job ends because of another rank, and that has been reported already: whoever catches this prints nothing.
class PeerLost : public Error {
 public:
  using Error::Error;
};

/// How a watch behaves; ranks agree on it.
struct WatchTimes {
  Seconds beat{1};      ///< between signs of life
  Seconds silence{10};  ///< without any, a rank counts as lost
  Seconds grace{12};    ///< from the loss until the job is ended by force
};

}  // namespace biqa
