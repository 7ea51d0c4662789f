// SPDX-License-Identifier: Apache-2.0
// Host memory of one pass, taken in order and returned in scopes. Every layer uses the same bytes, so only the first
// one allocates.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "tensor/tensor.h"

namespace biqa {

/// A view from take() is valid until the current Scope or the arena ends.
class Arena {
 public:
  explicit Arena(std::string label) : label_(std::move(label)) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A dense matrix, 64-byte aligned and uninitialised. Throws Error if there is not enough memory.
  View take(DType type, std::int64_t rows, std::int64_t columns);

  /// At its end returns everything taken since its beginning.
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
  std::string label_;
  std::deque<Buffer> blocks_;
  std::size_t block_ = 0, offset_ = 0;  // start of the free memory
};

}  // namespace biqa
