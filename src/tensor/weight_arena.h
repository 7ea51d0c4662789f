// SPDX-License-Identifier: Apache-2.0
// One copy of a model's frozen weights for all ranks of a node: named blocks in memory that processes share
// (docs/decisions/0006-weights-once-per-node.md).
//
// A model's load runs over an arena up to two times, with the same take() calls in any order:
//   planning   blocks get a name, a size and a fingerprint; there is no memory yet and nothing is to be read
//   filling    after create(): the blocks are memory of this process, to be written by whoever takes them
//   filled     after seal() or attach(): the blocks hold their weights and are read-only
// An arena is used by one thread at a time; the blocks taken from it outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "tensor/tensor.h"

namespace biqa {

/// This machine or its settings do not let processes share memory; a private copy is what remains.
class CannotShare : public Error {
 public:
  using Error::Error;
};

/// What only ranks that learn need stands behind the rest.
enum class WeightPart : std::uint8_t { forward, backward };

/// How another process of the same node finds an arena.
struct ArenaHandle {
  std::int64_t process = 0, descriptor = -1;
  std::uint64_t key = 0;  ///< drawn at random: tells this arena from whatever else may have that descriptor
};

class WeightArena {
 public:
  WeightArena() = default;
  ~WeightArena();
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;

  /// A block, 64-byte aligned. While planning its data is nullptr. Afterwards it must be one of the plan, of
  /// the same part, size and fingerprint (CHECK). `fingerprint` stands for what the bytes mean: kind and
  /// layout. Once filled, whoever writes to the block is killed by the system.
  Buffer take(const std::string& name, WeightPart part, std::size_t bytes, std::uint64_t fingerprint);
  /// Whether a block that is taken now is to be written.
  bool filling() const { return state_ == State::filling; }
  /// Whether a block that is taken now holds its weights.
  bool filled() const { return state_ == State::filled; }

  /// Of the names, sizes and fingerprints of a part, in the order of the plan; 0 without any. Where digests
  /// agree, so do the bytes of a filled part.
  std::uint64_t digest(WeightPart part) const;
  /// Bytes of all blocks.
  std::size_t bytes() const;

  /// Ends planning with memory of its own. Throws CannotShare where the system has no such memory, Error when
  /// there is not enough.
  void create();
  /// The bytes of a part, to be sent or received while filling.
  std::span<std::byte> contents(WeightPart part);
  /// Ends filling: no process can write any more.
  void seal();
  /// For attach() of other processes, as long as this arena lives.
  ArenaHandle handle() const;

  /// Ends planning with the memory of another process, which has sealed it. Throws CannotShare when it can't
  /// be reached, Error naming the first block that is not laid out there as planned here.
  void attach(const ArenaHandle& handle);

 private:
  enum class State : std::uint8_t { planning, filling, filled };
  struct Block {
    std::string name;
    WeightPart part;
    std::size_t bytes, offset;
    std::uint64_t fingerprint;
  };
  class Mapping;
  /// Places the blocks; the bytes of the whole mapping.
  std::size_t place();
  void check_header(const ArenaHandle& handle) const;

  State state_ = State::planning;
  std::vector<Block> blocks_;
  std::unordered_map<std::string, std::size_t> index_;
  std::size_t first_forward_ = 0, first_backward_ = 0, end_ = 0;  // offsets
  std::shared_ptr<Mapping> mapping_;
  int descriptor_ = -1;
  std::uint64_t key_ = 0;
  bool created_ = false;
};

}  // namespace biqa
