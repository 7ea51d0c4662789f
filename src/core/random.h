// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers. A draw is a pure function of a key and a counter, so it does not depend on batch,
// number of ranks or restarts. Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "core/host_device.h"

namespace biqa {

/// N words that host and device code can index (std::array's members exist on the host only).
template <std::size_t N>
struct Words {
  std::uint32_t word[N];

  BIQA_HOST_DEVICE std::uint32_t& operator[](std::size_t i) { return word[i]; }
  BIQA_HOST_DEVICE std::uint32_t operator[](std::size_t i) const { return word[i]; }
  bool operator==(const Words&) const = default;
};

/// Ten rounds of Philox 4x32 on `counter` with `key`.
BIQA_HOST_DEVICE inline Words<4> philox(Words<4> counter, Words<2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

/// Finaliser of SplitMix64: spreads every input bit over the output.
BIQA_HOST_DEVICE inline std::uint64_t mix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// The first parts of a stream's name. Code that makes many streams with the same first parts hashes these parts only
/// once.
class StreamName {
 public:
  /// `parts`: number of parts of the complete name.
  BIQA_HOST_DEVICE explicit StreamName(std::size_t parts) : state_(0x6269716100000000ULL + parts) {}
  BIQA_HOST_DEVICE StreamName with(std::uint64_t part) const {
    StreamName longer = *this;
    longer.state_ = mix64(state_ ^ mix64(part));
    return longer;
  }
  BIQA_HOST_DEVICE Words<2> key() const {
    return {static_cast<std::uint32_t>(state_), static_cast<std::uint32_t>(state_ >> 32)};
  }

 private:
  std::uint64_t state_;
};

/// A stream of draws whose key is its name. Draws are addressed by index; the stream has no state.
class RandomStream {
 public:
  /// `name`: for example (seed, step, sample, member, stage). Every part changes the stream.
  RandomStream(std::initializer_list<std::uint64_t> name) {
    StreamName parts(name.size());
    for (const std::uint64_t part : name) parts = parts.with(part);
    key_ = parts.key();
  }
  /// `key`: StreamName::key() of a complete name.
  BIQA_HOST_DEVICE explicit RandomStream(Words<2> key) : key_(key) {}

  BIQA_HOST_DEVICE Words<4> bits(std::uint64_t index) const {
    return philox({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), 0, 0}, key_);
  }
  /// Uniform in (0, 1), 53 bits, never an end point.
  double uniform(std::uint64_t index) const {
    const auto b = bits(index);
    const std::uint64_t mantissa = ((std::uint64_t{b[1]} << 32) | b[0]) >> 12;
    return (static_cast<double>(mantissa) + 0.5) * 0x1.0p-52;
  }
  std::uint64_t word(std::uint64_t index) const {
    const auto b = bits(index);
    return (std::uint64_t{b[1]} << 32) | b[0];
  }
  BIQA_HOST_DEVICE Words<2> key() const { return key_; }

 private:
  Words<2> key_{};
};

/// A random order of 0 … count-1 (Fisher-Yates).
inline std::vector<std::size_t> random_order(std::size_t count, const RandomStream& stream) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = count; i > 1; --i) {
    const auto j =
        static_cast<std::size_t>((__extension__ static_cast<unsigned __int128>(stream.word(i)) * i) >> 64);
    std::swap(order[i - 1], order[j]);
  }
  return order;
}

/// FNV-1a with a final mix. Turns a text, such as a sample id, into a part of a stream's name.
inline std::uint64_t hash_text(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  return mix64(hash);
}

}  // namespace biqa
