// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding of one word. Its bytes become tokens. Then the adjacent pair with the lowest rank (the leftmost of
// equals) is merged until no pair has a rank. Source: Sennrich et al., "Neural machine translation of rare words with
// subword units", ACL 2016.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace biqa {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

/// A map that can be searched by string_view without creating a string.
template <typename Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

/// The merges of a vocabulary. The key is the pair that is merged.
class MergeTable {
 public:
  struct Merge {
    std::int32_t rank;    ///< lower is merged first
    std::int32_t merged;  ///< id of the joined token
  };

  /// Has room for `count` merges; `add` must not be called more often.
  explicit MergeTable(std::size_t count);

  /// Returns false if the pair is already present.
  bool add(std::int32_t left, std::int32_t right, Merge merge);

  /// nullptr if the pair does not merge.
  const Merge* find(std::int32_t left, std::int32_t right) const;

 private:
  struct Slot {
    std::uint64_t pair = kEmpty;
    Merge merge{};
  };
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};  // no pair: ids are not negative
  std::size_t slot_of(std::uint64_t pair) const;

  std::vector<Slot> slots_;  // a power of two, at most half full
};

/// Encodes words and caches the short ones. Several threads may call `append` at once.
class BytePairEncoder {
 public:
  /// `byte_ids`: the token of each single byte.
  BytePairEncoder(const std::array<std::int32_t, 256>& byte_ids, MergeTable merges);

  /// Appends the ids of `word`, in time n log n for long ones.
  void append(std::string_view word, std::vector<std::int64_t>& ids) const;

 private:
  struct Shard {
    std::mutex mutex;
    StringMap<std::vector<std::int32_t>> words;
  };

  std::vector<std::int32_t> merge_short(std::string_view word) const;
  std::vector<std::int32_t> merge_long(std::string_view word) const;

  std::array<std::int32_t, 256> byte_ids_;
  MergeTable merges_;
  mutable std::array<Shard, 64> cache_;
};

}  // namespace biqa
