// SPDX-License-Identifier: Apache-2.0
// What a communicator needs from a wire: messages between two ranks, in order per channel. Private to comm;
// the collectives are built on it once, in message_communicator.cpp.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

#include "comm/communicator.h"

namespace biqa {

/// One message on its way. Its bytes stay where they are until it is done or dropped; dropping one that is
/// not done is for failures only, after which the transport must move nothing any more.
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual bool done() = 0;
};

/// A message has fewer than 2^31 bytes. Messages of one sender, receiver and channel arrive in order; nothing waits.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Channels are 0 … channels()-1.
  virtual int channels() const = 0;
  virtual std::unique_ptr<Transfer> start_send(int to, int channel, std::span<const std::byte> bytes) = 0;
  /// Size of the next message, if there is one.
  virtual std::optional<std::size_t> probe(int from, int channel) = 0;
  /// A rank from which there is a message; one look, however many ranks there are.
  virtual std::optional<int> probe_any(int channel) = 0;
  /// The message that probe has just reported; `bytes` has its size.
  virtual std::unique_ptr<Transfer> start_receive(int from, int channel, std::span<std::byte> bytes) = 0;
  /// Gives the processor away for at most this long, less when something may have arrived.
  virtual void idle(Seconds at_most) = 0;
};

/// All ranks of a transport.
std::unique_ptr<Communicator> make_communicator(std::unique_ptr<Transport> transport, Seconds deadline);

}  // namespace biqa
