// SPDX-License-Identifier: Apache-2.0
// Working memory of one pass. Blocks are taken in order and returned together at the end of a scope. Each layer reuses
// the bytes of the layer before, so only the first layer allocates.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "tensor/device_memory.h"

namespace biqa {

/// A view from take() is valid until the current Scope or the arena ends.
class Arena {
 public:
  /// Takes blocks from `memory`, which must outlive the arena. Returned bytes may be taken again at once. So all work
  /// on them must run in the order in which it was enqueued.
  explicit Arena(std::string label, DeviceMemory& memory = host_memory())
      : label_(std::move(label)), memory_(&memory) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A dense matrix, 64-byte aligned (device memory: 256) and uninitialised. Throws Error if there is not enough memory.
  View take(DType type, std::int64_t rows, std::int64_t columns);

  /// The end of a Scope returns everything that was taken since the Scope began.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), block_(arena.block_), offset_(arena.offset_) {}
    ~Scope() {
      arena_.block_ = block_;
      arena_.offset_ = offset_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::size_t block_, offset_;
  };

 private:
  /// Frees the blocks from `first` on, none of which is in use. The result is their total size in bytes.
  std::size_t free_from(std::size_t first);

  std::string label_;
  DeviceMemory* memory_;
  std::deque<Tensor> blocks_;
  std::size_t block_ = 0, offset_ = 0;  // start of the free memory
};

}  // namespace biqa
