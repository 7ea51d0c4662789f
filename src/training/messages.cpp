// SPDX-License-Identifier: Apache-2.0
#include "training/messages.h"

#include <glog/logging.h>

#include <cstring>

namespace biqa {
namespace {

WorkReply work_reply_of(const Message& message) {
  std::vector<std::int64_t> numbers(message.bytes.size() / sizeof(std::int64_t));
  CHECK(numbers.size() >= 2 && numbers.size() * sizeof(std::int64_t) == message.bytes.size());
  std::memcpy(numbers.data(), message.bytes.data(), message.bytes.size());
  return {numbers[0], numbers[1] != 0, {numbers.begin() + 2, numbers.end()}};
}

}  // namespace

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

void send_work_request(Communicator& world, int keeper, const WorkRequest& request) {
  const std::array<std::int64_t, 4> numbers{request.step, request.groups, request.row, request.tokens};
  static_assert(sizeof numbers == kWorkRequestWireBytes);
  world.send(keeper, kTagWork, std::as_bytes(std::span(numbers)));
}

std::optional<WorkRequest> try_receive_work_request(Communicator& world) {
  const auto message = world.try_receive(kAnyRank, kTagWork);
  if (!message) return std::nullopt;
  std::array<std::int64_t, 4> numbers{};
  CHECK_EQ(message->bytes.size(), sizeof numbers);
  std::memcpy(numbers.data(), message->bytes.data(), sizeof numbers);
  return WorkRequest{numbers[0], numbers[1], numbers[2], numbers[3], message->from};
}

void send_work_reply(Communicator& world, int actor, const WorkReply& reply) {
  std::vector<std::int64_t> numbers{reply.step, reply.last ? 1 : 0};
  static_assert((2 + 1) * sizeof numbers.front() == kWorkReplyWireBytes);
  numbers.insert(numbers.end(), reply.rows.begin(), reply.rows.end());
  world.send(actor, kTagWorkReply, std::as_bytes(std::span(numbers)));
}

std::optional<WorkReply> try_receive_work_reply(Communicator& world, int keeper) {
  const auto message = world.try_receive(keeper, kTagWorkReply);
  if (!message) return std::nullopt;
  return work_reply_of(*message);
}

WorkReply receive_work_reply(Communicator& world, int keeper) {
  return work_reply_of(world.receive(keeper, kTagWorkReply, "groups to roll out"));
}

void send_lacking(Communicator& world, int to, std::size_t groups) {
  const std::uint64_t number = groups;
  world.send(to, kTagRefill, std::as_bytes(std::span(&number, 1)));
}

std::size_t receive_lacking(Communicator& world, int first_learner) {
  const Message message = world.receive(first_learner, kTagRefill, "the number of groups to replace");
  std::uint64_t number = 0;
  CHECK_EQ(message.bytes.size(), sizeof number);
  std::memcpy(&number, message.bytes.data(), sizeof number);
  return number;
}

Boundary share_boundary(Communicator& world, int first_learner, const Boundary& own) {
  std::array<std::int64_t, 4> numbers{own.version, own.last_step, own.save ? 1 : 0,
                                      static_cast<std::int64_t>(own.evaluation)};
  static_assert(sizeof numbers == kBoundaryWireBytes);
  world.broadcast(View(numbers.data(), 1, numbers.size()), first_learner);
  return {numbers[0], numbers[1], numbers[2] != 0, static_cast<FirstEvaluation>(numbers[3])};
}

}  // namespace biqa
