// SPDX-License-Identifier: Apache-2.0
// Messages between ranks during training: all tags, and the layouts of all messages that are not groups. Groups are in
// data/wire.h, messages between learners in learner/messages.h. All ranks run the same build, so StepReport is sent
// as its bytes. The other messages are arrays of 64-bit integers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "comm/communicator.h"

namespace biqa {

/// Tags of messages between roles.
enum Tag : int {
  kTagGroup = 1,   ///< actor → reward rank: a finished group
  kTagScored = 2,  ///< reward rank → every learner: the same with rewards
  kTagReport = 3,  ///< every rank → first learner: its part of a step
  kTagWork = 4,    ///< actor → first actor: a request for groups
  kTagWorkReply = kTagWork + 1,
  kTagRefill,    ///< first learner → every rank that is no learner: the number of groups that a step lacks
  kTagEvaluated  ///< this and the following tags, one per set and decoding: actor → first learner
};

/// Bytes sent, by kind of traffic.
using SentBytes = std::array<std::uint64_t, kOperations>;

/// A rank's report of its part of a step.
struct StepReport {
  double rollout = 0, stage2 = 0, reward = 0, learn = 0;  ///< seconds
  SentBytes sent{};                                       ///< since its last report
  bool stop = false, save = false;                        ///< signals that it has received
  std::int64_t device_peak_bytes = 0;                     ///< of tensors on its GPU so far
};
void send_report(Communicator& world, int to, const StepReport& report);
/// Waits for the next report of rank `from`.
StepReport receive_report(Communicator& world, int from);

/// A request for `groups` groups of a step. If tokens > 0, also reports the length of the finished group of `row`.
struct WorkRequest {
  std::int64_t step = 0, groups = 0, row = 0, tokens = 0;
  int from = -1;  ///< the rank that asks; set by the receiver
};
/// Rows of a step for the actor that gets them. `last`: the step has no more rows for this actor.
struct WorkReply {
  std::int64_t step = 0;
  bool last = false;
  std::vector<std::size_t> rows;
};
void send_work_request(Communicator& world, int keeper, const WorkRequest& request);
std::optional<WorkRequest> try_receive_work_request(Communicator& world);
void send_work_reply(Communicator& world, int actor, const WorkReply& reply);
std::optional<WorkReply> try_receive_work_reply(Communicator& world, int keeper);
/// As try_receive_work_reply(), but waits.
WorkReply receive_work_reply(Communicator& world, int keeper);

/// Bytes of a report, of a request, and of a reply with one row.
inline constexpr std::size_t kReportWireBytes = sizeof(StepReport),
                             kWorkRequestWireBytes = 4 * sizeof(std::int64_t),
                             kWorkReplyWireBytes = 3 * sizeof(std::int64_t);

/// The number of groups that a step lacks, for rank `to`.
void send_lacking(Communicator& world, int to, std::size_t groups);
std::size_t receive_lacking(Communicator& world, int first_learner);

/// The evaluation that a starting run must do before its steps.
enum class FirstEvaluation : std::int64_t {
  none,      ///< nothing
  due,       ///< before the first step
  recorded,  ///< all steps and the evaluation after the last one are done
};

/// Bytes of a Boundary in a message.
inline constexpr std::size_t kBoundaryWireBytes = 4 * sizeof(std::int64_t);

/// Decisions of the first learner after a step, or before the first step.
struct Boundary {
  std::int64_t version = 0;    ///< of the adapter that is published next
  std::int64_t last_step = 0;  ///< the run ends after this step; negative: it is already finished
  bool save = false;           ///< learners save now
  FirstEvaluation evaluation = FirstEvaluation::none;
};
/// Returns the first learner's boundary on every rank. Collective.
Boundary share_boundary(Communicator& world, int first_learner, const Boundary& own);

}  // namespace biqa
