// SPDX-License-Identifier: Apache-2.0
// The interface between a communicator and a network: messages between two ranks, in order per channel. Private to
// comm. message_communicator.cpp builds all collectives on it.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

#include "comm/communicator.h"

namespace biqa {

/// A message being sent or received. Its bytes must stay valid until it is done or destroyed. Destroy an unfinished
/// transfer only after a failure; after that the transport must not be used.
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual bool done() = 0;
};

/// A message has fewer than 2^31 bytes. Messages with the same sender, receiver and channel arrive in order. No
/// function waits, except idle().
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Channels are 0 … channels()-1.
  virtual int channels() const = 0;
  virtual std::unique_ptr<Transfer> start_send(int to, int channel, std::span<const std::byte> bytes) = 0;
  /// Size of the next message, if one has arrived.
  virtual std::optional<std::size_t> probe(int from, int channel) = 0;
  /// A rank whose message has arrived, if any. The cost of the call does not depend on the number of ranks.
  virtual std::optional<int> probe_any(int channel) = 0;
  /// Receives the message that probe has just reported. `bytes` has its size.
  virtual std::unique_ptr<Transfer> start_receive(int from, int channel, std::span<std::byte> bytes) = 0;
  /// Yields the processor for at most this time, or until something may have arrived.
  virtual void idle(Seconds at_most) = 0;
};

/// A communicator of all ranks of a transport.
std::unique_ptr<Communicator> make_communicator(std::unique_ptr<Transport> transport, Seconds deadline);

}  // namespace biqa
