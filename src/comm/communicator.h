// SPDX-License-Identifier: Apache-2.0
// Ranks, collectives and byte messages; knows no trajectory and no model.
//
// Every wait has a deadline. On expiry an Error names the operation, the ranks that did not answer, the own
// rank and the seconds waited. Ranks in messages are those of the whole job, also in a sub-communicator. Sums
// are made in rank order, so their bits depend on the inputs and the number of ranks alone: not on timing and
// not on the transport. Every collective carries its kind, element type and size, so ranks that disagree get
// an Error, not garbage. After an Error in the middle of a transfer the job can only end: every later call
// fails at once.
//
// A communicator is used by one thread at a time. All ranks call the collectives of one communicator in one order.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace biqa {

using Seconds = std::chrono::duration<double>;

/// Stands for "whichever rank" where a message is received.
inline constexpr int kAnyRank = -1;
/// Tags of messages are 0 … kMaxTag.
inline constexpr int kMaxTag = 1023;

struct Message {
  int from = 0;
  int tag = 0;
  std::vector<std::byte> bytes;
};

/// Kinds of traffic, as counted and as named in errors.
enum class Operation : std::uint8_t {
  barrier,
  broadcast,
  all_reduce,
  reduce_scatter,
  all_gather,
  gather,
  split,
  message,
};
inline constexpr int kOperations = 8;
const char* name_of(Operation operation);

/// What this rank has sent, without the few bytes of framing.
struct Traffic {
  std::uint64_t calls = 0, bytes = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// The longest that any wait may take; on expiry it throws Error.
  virtual void set_deadline(Seconds deadline) = 0;
  virtual Seconds deadline() const = 0;

  /// Returns when every rank has called it. `purpose` is named in errors ("the start of step 3").
  virtual void barrier(const char* purpose) = 0;

  /// `root`'s elements to all. The view is dense; its type and count are checked to be those of the root.
  virtual void broadcast(View buffer, int root) = 0;
  /// `root`'s bytes to all; elsewhere the vector gets their number.
  virtual void broadcast_bytes(std::vector<std::byte>& bytes, int root) = 0;

  /// Element-wise sum over the ranks, ((x0 + x1) + x2) + … in the element type, in place; the same bits on every rank.
  virtual void all_reduce_sum(std::span<float> values) = 0;
  virtual void all_reduce_sum(std::span<double> values) = 0;
  /// NaN as soon as one rank's value is.
  virtual double all_reduce_max(double value) = 0;
  virtual double all_reduce_min(double value) = 0;
  bool all_and(bool value) { return all_reduce_min(value ? 1.0 : 0.0) == 1.0; }

  /// Sums over the ranks, summed in rank order; this rank gets elements [rank·n, (rank+1)·n), n =
  /// own_shard.size(). `all` has size()·n elements. `own_shard` may be that very range of `all`.
  virtual void reduce_scatter_sum(std::span<const float> all, std::span<float> own_shard) = 0;
  /// Every rank's shard, in rank order; `all` has size()·own_shard.size() elements. `own_shard` may be its
  /// own range of `all`.
  virtual void all_gather(std::span<const float> own_shard, std::span<float> all) = 0;

  /// `root` gets every rank's bytes in rank order, the others an empty vector.
  virtual std::vector<std::vector<std::byte>> gather_bytes(std::span<const std::byte> own, int root) = 0;

  /// Sends a copy of `bytes`; never waits for the receiver. Messages with one sender, receiver and tag keep
  /// their order. Over MPI a message of more than a few KiB travels on while the sender calls its
  /// communicator: see progress().
  virtual void send(int to, int tag, std::span<const std::byte> bytes) = 0;
  /// A message that has arrived completely, or nothing. `from` may be kAnyRank, which takes the ranks in turn.
  virtual std::optional<Message> try_receive(int from, int tag) = 0;
  /// Waits for a message with one of `tags` (earlier ones first). `purpose` is named in errors ("a scored group").
  virtual Message receive(int from, std::span<const int> tags, const char* purpose) = 0;
  Message receive(int from, int tag, const char* purpose) {
    return receive(from, std::span(&tag, 1), purpose);
  }
  Message receive(int from, std::initializer_list<int> tags, const char* purpose) {
    return receive(from, std::span(tags.begin(), tags.size()), purpose);
  }
  /// Moves what is being sent a little further; cheap, never waits. For long computations between other calls.
  virtual void progress() = 0;
  /// Waits until all that was sent has left this rank.
  virtual void flush() = 0;

  /// `poll` is called again and again in every wait and by progress(), of this communicator and all that share its
  /// wire. What it throws ends the wait: the way to give up on peers that are known to be gone. It must not
  /// communicate.
  virtual void set_poll(std::function<void()> poll) = 0;

  /// A communicator of `members` (ranks of this one; their order gives the new ranks). Every rank of this
  /// communicator calls it with the same list; those not in the list get nullptr. `name` is named in errors
  /// ("learners").
  virtual std::unique_ptr<Communicator> split(std::span<const int> members, const std::string& name) = 0;

  /// What this rank has sent through this communicator so far (sub-communicators count for themselves).
  virtual Traffic traffic(Operation operation) const = 0;
};

/// Who dies or stops is noticed by the watch (comm/watch.h); this is for one that lives and never answers, and is longer
/// than any step.
inline constexpr Seconds kDefaultDeadline{3600};

/// One rank alone; messages to itself work.
std::unique_ptr<Communicator> make_local(Seconds deadline = kDefaultDeadline);

/// Ranks as threads of this process, for tests: element r is rank r's, to be used by one thread.
std::vector<std::unique_ptr<Communicator>> make_thread_world(int ranks, Seconds deadline);

}  // namespace biqa
