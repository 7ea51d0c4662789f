// SPDX-License-Identifier: Apache-2.0
#include "training/messages.h"

#include <glog/logging.h>

#include <cstring>

namespace biqa {

void send_report(Communicator& world, int to, const StepReport& report) {
  world.send(to, kTagReport, std::as_bytes(std::span(&report, 1)));
}

StepReport receive_report(Communicator& world, int from) {
  const Message message = world.receive(from, kTagReport, "the report of a step");
  StepReport report;
  CHECK_EQ(message.bytes.size(), sizeof report);
  std::memcpy(&report, message.bytes.data(), sizeof report);
  return report;
}

Boundary share_boundary(Communicator& world, int first_learner, const Boundary& own) {
  std::array<std::int64_t, 4> numbers{own.version, own.last_step, own.save ? 1 : 0,
                                      static_cast<std::int64_t>(own.evaluation)};
  static_assert(sizeof numbers == kBoundaryWireBytes);
  world.broadcast(View(numbers.data(), 1, numbers.size()), first_learner);
  return {numbers[0], numbers[1], numbers[2] != 0, static_cast<FirstEvaluation>(numbers[3])};
}

}  // namespace biqa
