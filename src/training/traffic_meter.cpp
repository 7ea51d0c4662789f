// SPDX-License-Identifier: Apache-2.0
#include "training/traffic_meter.h"

#include <utility>

namespace biqa {

TrafficMeter::TrafficMeter(std::vector<const Communicator*> communicators)
    : communicators_(std::move(communicators)), taken_(total()) {}

SentBytes TrafficMeter::total() const {
  SentBytes sent{};
  for (const Communicator* one : communicators_) {
    for (int kind = 0; kind < kOperations && one != nullptr; ++kind)
      sent[static_cast<std::size_t>(kind)] += one->traffic(static_cast<Operation>(kind)).bytes;
  }
  return sent;
}

SentBytes TrafficMeter::take() {
  const SentBytes now = total();
  SentBytes sent{};
  for (std::size_t kind = 0; kind < sent.size(); ++kind) sent[kind] = now[kind] - taken_[kind];
  taken_ = now;
  return sent;
}

void TrafficMeter::leave_out_since(const SentBytes& before) {
  const SentBytes now = total();
  for (std::size_t kind = 0; kind < now.size(); ++kind) taken_[kind] += now[kind] - before[kind];
}

}  // namespace biqa
