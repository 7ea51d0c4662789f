// SPDX-License-Identifier: Apache-2.0
// Messages on a transport. A message is a header and a payload. A small payload is part of the same transport message.
// A large one is sent in pieces on a second channel, without a copy. Posting never waits. Private to
// comm/message_communicator.cpp.
#pragma once

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <list>
#include <type_traits>
#include <utility>

#include "comm/transport.h"
#include "core/error.h"

namespace biqa::endpoint {

/// Up to this size the payload is copied into the message of its header.
inline constexpr std::size_t kInlineBytes = std::size_t{32} << 10;
/// Size of the pieces of a larger payload: far below MPI's limit of 2^31, and small enough to show that a transfer
/// advances.
inline constexpr std::size_t kPieceBytes = std::size_t{256} << 10;

/// A stream is a pair of channels, one for headers and one for pieces. There is one stream per tag and one for the
/// collectives.
inline constexpr int kCollectiveStream = kMaxTag + 1;
inline constexpr int kChannelsPerContext = 2 * (kCollectiveStream + 1);

enum class Element : std::uint8_t { f32, bf16, i32, i64, u8, f64, bytes, member_digest };

inline Element element_of(DType type) {
  switch (type) {
    case DType::f32:
      return Element::f32;
    case DType::bf16:
      return Element::bf16;
    case DType::i32:
      return Element::i32;
    case DType::i64:
      return Element::i64;
    case DType::u8:
      return Element::u8;
  }
  return Element::bytes;
}

inline const char* name_of(Element element) {
  constexpr std::array kNames{"f32", "bf16", "i32",   "i64",
                              "u8",  "f64",  "bytes", "as the digest of its members"};
  return kNames.at(static_cast<std::size_t>(element));
}

template <typename T>
constexpr Element kElement = std::is_same_v<T, float> ? Element::f32 : Element::f64;

struct Header {
  std::uint32_t magic = 0x62697161;
  Operation operation = Operation::message;
  Element element = Element::bytes;
  std::uint16_t reserved = 0;
  std::uint32_t sequence = 0;  ///< number of the collective in this communicator
  std::int32_t root = 0;
  std::uint64_t elements = 0;  ///< of the whole operation; 0 if ranks may differ
  std::uint64_t bytes = 0;     ///< of this message
};
static_assert(sizeof(Header) == 32 && std::is_trivially_copyable_v<Header>);

inline std::string describe(const Header& header) {
  return fmt::format("{} number {} (root {}, {} {})", name_of(header.operation), header.sequence, header.root,
                     header.elements, name_of(header.element));
}

using Clock = std::chrono::steady_clock;

/// Counts pieces sent and received. While pieces move, the peer is not silent, and neither end should sleep.
class Movement {
 public:
  void note_piece() {
    ++pieces_;
    last_ = Clock::now();
  }
  std::uint64_t pieces() const { return pieces_; }
  bool is_recent(Clock::time_point now) const { return now - last_ < std::chrono::milliseconds(2); }

 private:
  std::uint64_t pieces_ = 0;
  Clock::time_point last_;
};

/// A message being sent: its header, and a copy of the payload unless the payload is borrowed from the caller.
struct Outgoing {
  int to = 0;             ///< rank of the job
  bool large = false;     ///< payload sent in pieces
  bool borrowed = false;  ///< the payload is in the caller's memory
  std::vector<std::byte> head, body;
  std::deque<std::unique_ptr<Transfer>> transfers;  ///< unfinished transfers of header and pieces, in order

  bool done(Movement& movement) {
    for (; !transfers.empty() && transfers.front()->done(); transfers.pop_front())
      if (large) movement.note_piece();
    return transfers.empty();
  }
};

/// One rank's end of a transport, shared by its communicators.
class Endpoint {
 public:
  explicit Endpoint(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}

  Transport& transport() { return *transport_; }

  std::shared_ptr<Outgoing> start(int to, int channel, Header header, std::span<const std::byte> payload,
                                  bool copy) {
    auto message = std::make_shared<Outgoing>();
    header.bytes = payload.size();
    message->to = to;
    const bool is_inline = payload.size() <= kInlineBytes;
    message->head.resize(sizeof(Header) + (is_inline ? payload.size() : 0));
    std::memcpy(message->head.data(), &header, sizeof(Header));
    if (is_inline && !payload.empty())
      std::memcpy(message->head.data() + sizeof(Header), payload.data(), payload.size());
    message->transfers.push_back(transport_->start_send(to, channel, message->head));
    if (!is_inline) {
      message->large = true;
      message->borrowed = !copy;
      if (copy) {
        message->body.assign(payload.begin(), payload.end());
        payload = message->body;
      }
      for (std::size_t begin = 0; begin < payload.size(); begin += kPieceBytes)
        message->transfers.push_back(transport_->start_send(
            to, channel + 1, payload.subspan(begin, std::min(kPieceBytes, payload.size() - begin))));
    }
    outgoing_.push_back(message);
    return message;
  }

  void progress() {
    check_usable();
    std::erase_if(outgoing_, [this](auto& message) { return message->done(movement); });
  }
  const std::list<std::shared_ptr<Outgoing>>& outgoing() const { return outgoing_; }

  /// Call after a failure: drops references to bytes of the caller.
  void drop_borrowed() {
    const auto dropped = std::erase_if(
        outgoing_, [](auto& message) { return message->borrowed && !message->transfers.empty(); });
    if (dropped > 0) set_broken();
  }
  void set_broken() { broken_ = true; }
  void set_poll(std::function<void()> poll) { poll_ = std::move(poll); }
  void poll() const {
    if (poll_) poll_();
  }
  void check_usable() const {
    if (broken_)
      fail("communication on rank {}: an earlier operation failed in the middle of a transfer; end the job",
           transport_->rank());
  }

  Movement movement;
  std::uint32_t next_context = 1;

 private:
  std::unique_ptr<Transport> transport_;
  std::list<std::shared_ptr<Outgoing>> outgoing_;
  std::function<void()> poll_;
  bool broken_ = false;
};

/// A message being received: first its header, then the pieces of a large payload.
class Incoming {
 public:
  /// `check` checks the header and returns the target of the payload: a span of header.bytes bytes.
  using Accept = std::function<std::span<std::byte>(const Header&)>;

  Incoming(Endpoint& endpoint, int from, int channel, Accept accept)
      : endpoint_(endpoint), from_(from), channel_(channel), accept_(std::move(accept)) {}
  Incoming(const Incoming&) = delete;
  Incoming& operator=(const Incoming&) = delete;
  ~Incoming() {
    if (started_ && !complete_) endpoint_.set_broken();
  }

  int from() const { return from_; }

  /// Takes what has arrived. Returns true if the message is complete.
  bool advance() {
    while (!complete_) {
      if (transfer_ != nullptr) {
        if (!transfer_->done()) return false;
        transfer_.reset();
        if (!first_.empty()) {
          take_first();
        } else {
          endpoint_.movement.note_piece();
        }
        complete_ = received_ == payload_.size();
      } else {
        const auto size = endpoint_.transport().probe(from_, started_ ? channel_ + 1 : channel_);
        if (!size) return false;
        start_next(*size);
      }
    }
    return true;
  }

 private:
  void start_next(std::size_t size) {
    if (!started_) {
      CHECK_GE(size, sizeof(Header));
      CHECK_LE(size, sizeof(Header) + kInlineBytes);
      first_.resize(size);
      transfer_ = endpoint_.transport().start_receive(from_, channel_, first_);
      started_ = true;
    } else {
      CHECK_EQ(size, std::min(kPieceBytes, payload_.size() - received_));
      transfer_ = endpoint_.transport().start_receive(from_, channel_ + 1, payload_.subspan(received_, size));
      received_ += size;
    }
  }

  void take_first() {
    Header header;
    std::memcpy(&header, first_.data(), sizeof(Header));
    CHECK_EQ(header.magic, Header{}.magic);
    payload_ = accept_(header);
    CHECK_EQ(payload_.size(), header.bytes);
    const std::size_t behind = first_.size() - sizeof(Header);
    CHECK_EQ(behind, payload_.size() <= kInlineBytes ? payload_.size() : 0);
    if (behind > 0) std::memcpy(payload_.data(), first_.data() + sizeof(Header), behind);
    received_ = behind;
    first_.clear();
  }

  Endpoint& endpoint_;
  int from_, channel_;
  Accept accept_;
  bool started_ = false, complete_ = false;
  std::vector<std::byte> first_;
  std::span<std::byte> payload_;
  std::size_t received_ = 0;
  std::unique_ptr<Transfer> transfer_;
};

}  // namespace biqa::endpoint
