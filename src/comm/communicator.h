// SPDX-License-Identifier: Apache-2.0
// Ranks, collectives and byte messages.
//
// Every wait has a deadline. When it passes, an Error names the operation, the ranks that did not answer, this rank and
// the seconds waited. Error messages use the rank numbers of the whole job, also in a sub-communicator. Sums are
// computed in rank order. So their bits depend only on the inputs and the number of ranks, not on timing or transport.
// Every collective carries its kind, element type and size, so ranks that disagree get an Error. After an Error in the
// middle of a transfer, every later call fails at once, and the job must end.
//
// Only one thread at a time may use a communicator. All ranks call its collectives in the same order.
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

/// Receive from any rank.
inline constexpr int kAnyRank = -1;
/// Tags of messages are 0 … kMaxTag.
inline constexpr int kMaxTag = 1023;

struct Message {
  int from = 0;
  int tag = 0;
  std::vector<std::byte> bytes;
};

/// Kinds of traffic, for counters and error messages.
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

/// What this rank has sent, without headers.
struct Traffic {
  std::uint64_t calls = 0, bytes = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// The number that `rank` of this communicator has in the whole job.
  virtual int job_rank(int rank) const = 0;

  /// The longest time that a wait may take before it throws Error.
  virtual void set_deadline(Seconds deadline) = 0;
  virtual Seconds deadline() const = 0;

  /// Returns when every rank has called it. Errors contain `purpose` ("the start of step 3").
  virtual void barrier(const char* purpose) = 0;

  /// Copies `root`'s elements to all ranks. The view is dense. Error if its type or count differs from the root's.
  virtual void broadcast(View buffer, int root) = 0;
  /// Copies `root`'s bytes to all ranks. On the others `bytes` is resized.
  virtual void broadcast_bytes(std::vector<std::byte>& bytes, int root) = 0;

  /// Element-wise sum over the ranks, in place: ((x0 + x1) + x2) + … in the element type. Same bits on every rank.
  virtual void all_reduce_sum(std::span<float> values) = 0;
  virtual void all_reduce_sum(std::span<double> values) = 0;
  /// NaN if any rank's value is NaN.
  virtual double all_reduce_max(double value) = 0;
  virtual double all_reduce_min(double value) = 0;
  bool all_and(bool value) { return all_reduce_min(value ? 1.0 : 0.0) == 1.0; }

  /// Element-wise sum over the ranks in rank order. This rank gets elements [rank·n, (rank+1)·n), n = own_shard.size().
  /// `all` has size()·n elements. `own_shard` may be this range of `all`.
  virtual void reduce_scatter_sum(std::span<const float> all, std::span<float> own_shard) = 0;
  /// Gathers every rank's shard in rank order. `all` has size()·own_shard.size() elements. `own_shard` may be this
  /// rank's range of `all`.
  virtual void all_gather(std::span<const float> own_shard, std::span<float> all) = 0;

  /// Returns every rank's bytes in rank order on `root`, and an empty vector on the others.
  virtual std::vector<std::vector<std::byte>> gather_bytes(std::span<const std::byte> own, int root) = 0;

  /// Sends a copy of `bytes`; never waits for the receiver. Messages with the same sender, receiver and tag arrive in
  /// order. Over MPI, a message of more than a few KiB advances only while the sender calls its communicator: see
  /// progress().
  virtual void send(int to, int tag, std::span<const std::byte> bytes) = 0;
  /// Returns a message that has arrived completely, or nothing. `from` may be kAnyRank; then the ranks are served in
  /// turn.
  virtual std::optional<Message> try_receive(int from, int tag) = 0;
  /// Waits for a message with one of `tags`; earlier tags have priority. Errors contain `purpose` ("a scored group").
  virtual Message receive(int from, std::span<const int> tags, const char* purpose) = 0;
  Message receive(int from, int tag, const char* purpose) {
    return receive(from, std::span(&tag, 1), purpose);
  }
  Message receive(int from, std::initializer_list<int> tags, const char* purpose) {
    return receive(from, std::span(tags.begin(), tags.size()), purpose);
  }
  /// Advances the messages being sent; cheap, never waits. Call it during long computations.
  virtual void progress() = 0;
  /// Waits until all sent messages have left this rank.
  virtual void flush() = 0;

  /// Sets a function that every wait and progress() calls repeatedly, in this communicator and all that share its
  /// transport. An exception from it ends the wait, for example if a peer is known to be lost. It must not communicate.
  virtual void set_poll(std::function<void()> poll) = 0;

  /// Returns a communicator of `members` (ranks of this one, in the order of their new ranks), or nullptr on other
  /// ranks. Every rank of this communicator calls it with the same list. Errors contain `name` ("learners").
  virtual std::unique_ptr<Communicator> split(std::span<const int> members, const std::string& name) = 0;

  /// What this rank has sent through this communicator so far. Sub-communicators have their own counters.
  virtual Traffic traffic(Operation operation) const = 0;
};

/// Longer than any step. This deadline finds ranks that live but never answer; the watch (comm/watch.h) finds dead and
/// stopped ones.
inline constexpr Seconds kDefaultDeadline{3600};

/// A world of one rank, which can send messages to itself.
std::unique_ptr<Communicator> make_local(Seconds deadline = kDefaultDeadline);

/// Ranks as threads of this process, for tests. Element r belongs to rank r and is used by one thread.
std::vector<std::unique_ptr<Communicator>> make_thread_world(int ranks, Seconds deadline);

}  // namespace biqa
