// SPDX-License-Identifier: Apache-2.0
// A communicator that waits before some messages, so that its rank is slow.
#pragma once

#include <set>
#include <thread>
#include <utility>

#include "support/forwarding_communicator.h"

namespace biqa::testing {

class SlowCommunicator final : public ForwardingCommunicator {
 public:
  /// Sleeps for this time before every message with one of these tags.
  SlowCommunicator(Communicator& inner, std::set<int> tags, Seconds delay)
      : ForwardingCommunicator(inner), tags_(std::move(tags)), delay_(delay) {}

  void send(int to, int tag, std::span<const std::byte> bytes) override {
    if (tags_.count(tag) != 0) std::this_thread::sleep_for(delay_);
    ForwardingCommunicator::send(to, tag, bytes);
  }

 private:
  const std::set<int> tags_;
  const Seconds delay_;
};

}  // namespace biqa::testing
