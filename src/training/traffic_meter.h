// SPDX-License-Identifier: Apache-2.0
// Counts the bytes that this rank has sent since its last report.
#pragma once

#include <vector>

#include "training/messages.h"

namespace biqa {

/// Includes messages that a rank sends to itself.
class TrafficMeter {
 public:
  /// Starts counting now. Communicators may be nullptr.
  explicit TrafficMeter(std::vector<const Communicator*> communicators);

  /// All bytes so far.
  SentBytes total() const;
  /// Bytes since the last call of take(), or since the start.
  SentBytes take();
  /// Makes the next take() ignore everything sent since `before`, an earlier total().
  void leave_out_since(const SentBytes& before);

 private:
  std::vector<const Communicator*> communicators_;
  SentBytes taken_{};
};

}  // namespace biqa
