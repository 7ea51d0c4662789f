// SPDX-License-Identifier: Apache-2.0
// The interface to NCCL, without NCCL's types, so that tests can replace NCCL by threads. A world is what NCCL calls a
// communicator. Nothing here waits. Private to this folder.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "tensor/cuda/runtime.h"

namespace biqa::nccl {

/// Identifies a world. One rank makes it and sends it to the others.
using WorldName = std::array<std::byte, 128>;

/// One transfer in device memory, seen from one of its ranks. `bytes` is at least 1.
struct Move {
  enum class Kind : std::uint8_t { send, receive, broadcast };
  Kind kind = Kind::send;
  int peer = 0;                ///< the other rank of a send or receive; the root of a broadcast
  const void* from = nullptr;  ///< source of a send, or of a broadcast on its root
  void* to = nullptr;          ///< target of a receive or of a broadcast; on the root it may be the source
  std::int64_t bytes = 0;
};

enum class Progress : std::uint8_t { ready, under_way, failed };
struct State {
  Progress progress = Progress::ready;
  std::string reason{};  ///< of a failure
};

/// One rank's end of a world. While the state is `under_way`, only state() and the destructor may be called.
class World {
 public:
  /// Never waits for a peer. If leave() was called and the state is ready, the destructor frees the world. Otherwise it
  /// aborts all work that is under way.
  virtual ~World() = default;
  /// State of the creation, or of the last start() or leave(). After start(), `ready` means that all moves are enqueued
  /// in the stream. They need not have finished.
  virtual State state() = 0;
  /// Begins `moves` as one group, in the order of the stream. The n-th send from one rank to another matches the n-th
  /// receive there.
  virtual void start(std::span<const Move> moves) = 0;
  /// Marks the current end of the stream. Only when the state is ready.
  virtual void mark() = 0;
  /// True if the stream has reached the mark. Throws Error if work in the stream has failed.
  virtual bool passed() = 0;
  /// Begins to leave the world. Nothing may be started afterwards.
  virtual void leave() = 0;
};

/// Makes worlds. Calls throw Error if the library refuses.
class Library {
 public:
  virtual ~Library() = default;
  virtual WorldName make_name() = 0;
  /// Begins to create this rank's end of a world, on the selected device. The world moves data in `stream`, which must
  /// outlive it.
  virtual std::unique_ptr<World> join(const WorldName& name, int rank, int ranks,
                                      const cuda::Stream& stream) = 0;
};

/// NCCL itself.
Library& library();

}  // namespace biqa::nccl
