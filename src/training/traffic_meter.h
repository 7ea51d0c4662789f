// SPDX-License-Identifier: Apache-2.0
// How many bytes this rank has sent since its last report.
#pragma once

#include <vector>

#include "training/messages.h"

namespace biqa {

/// Counts the messages that a rank sends to itself as well.
class TrafficMeter {
 public:
  /// Starts to count now. Communicators may be nullptr.
  explicit TrafficMeter(std::vector<const Communicator*> communicators);

  /// All bytes so far.
  SentBytes total() const;
  /// Bytes since the last call, or since the meter was made.
  SentBytes take();
  /// What was sent since `before`, a total(), is left out of the next take().
  void leave_out_since(const SentBytes& before);

 private:
  std::vector<const Communicator*> communicators_;
  SentBytes taken_{};
};

}  // namespace biqa
