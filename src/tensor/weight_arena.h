// SPDX-License-Identifier: Apache-2.0
// One copy of a model's frozen weights for all ranks of a node, as named blocks in shared memory
// (docs/decisions/0006-weights-once-per-node.md).
//
// A model is loaded with an arena up to two times: first to plan the blocks, then to fill or use them. Both loads take
// the same blocks, in any order. The states of an arena:
//   planning   blocks have a name, a size and a fingerprint, but no memory; weights must not be read
//   filling    after create(): blocks are memory of this process; the caller of take() must write them
//   filled     after seal() or attach(): blocks have their weights and are read-only
// Only one thread at a time may use an arena. The blocks taken from it may outlive it.
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

/// This machine or its settings do not let processes share memory. The caller must use a private copy.
class CannotShare : public Error {
 public:
  using Error::Error;
};

/// Backward blocks, which only learners need, come after all forward blocks.
enum class WeightPart : std::uint8_t { forward, backward };

/// The address of an arena for other processes of the node.
struct ArenaHandle {
  std::int64_t process = 0, descriptor = -1;
  std::uint64_t key = 0;  ///< random; shows that the descriptor still belongs to this arena
};

class WeightArena {
 public:
  WeightArena() = default;
  ~WeightArena();
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;

  /// Returns a block, 64-byte aligned. While planning, its data is nullptr. Afterwards the block must be in the plan
  /// with the same part, size and fingerprint (CHECK). `fingerprint`: digest of the kind and layout of the bytes. Once
  /// filled, a write to the block ends the process (SIGSEGV).
  Buffer take(const std::string& name, WeightPart part, std::size_t bytes, std::uint64_t fingerprint);
  /// Whether a block that is taken now must be written.
  bool filling() const { return state_ == State::filling; }
  /// Whether a block that is taken now already has its weights.
  bool filled() const { return state_ == State::filled; }

  /// Digest of the names, sizes and fingerprints of a part, in the order of the plan; 0 without blocks. If digests are
  /// equal, so are the bytes of a filled part.
  std::uint64_t digest(WeightPart part) const;
  /// Bytes of all blocks.
  std::size_t bytes() const;

  /// Ends planning and allocates memory. Throws CannotShare if the system has no shareable memory, Error if there is
  /// not enough.
  void create();
  /// The bytes of a part, for sending or receiving while filling.
  std::span<std::byte> contents(WeightPart part);
  /// Ends filling. After this no process can write.
  void seal();
  /// The handle that other processes pass to attach(). It is valid as long as this arena exists.
  ArenaHandle handle() const;

  /// Ends planning and uses the memory of another process, which has sealed it. Throws CannotShare if that memory
  /// cannot be reached. Throws Error naming the first block whose layout there differs from the plan here.
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
  /// Sets the offsets of the blocks. Returns the size of the whole mapping in bytes.
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
