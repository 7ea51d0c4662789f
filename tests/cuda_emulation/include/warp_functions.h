// SPDX-License-Identifier: Apache-2.0
// CUDA's functions of a warp. Part of the emulated cuda_runtime.h.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "cuda_emulation/block.h"

namespace biqa::emulation {

/// What a lane hands into a shuffle: its value, the lane that it reads, and room for what that one gave.
template <typename T>
struct Shuffle {
  T value;
  int from;
  T result;
};

template <typename T>
void run_shuffle(void* const* lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    if (lanes[lane] == nullptr) continue;
    auto& own = *static_cast<Shuffle<T>*>(lanes[lane]);
    const auto* other = static_cast<const Shuffle<T>*>(lanes[own.from & 31]);
    if (other == nullptr)
      lane_fault(lane,
                 "a shuffle reads lane " + std::to_string(own.from & 31) + ", which does not take part");
    own.result = other->value;
  }
}

template <typename T>
T shuffle(const Collective& kind, unsigned mask, T value, int from) {
  Shuffle<T> exchange{value, from, value};
  warp_collective(kind, &exchange, mask);
  return exchange.result;
}

/// One vote or number a lane; the result is the same for all.
struct Vote {
  unsigned value, result;
};

template <typename Combine>
void run_vote(void* const* lanes) {
  std::array<Vote*, 32> votes{};
  for (int lane = 0; lane < 32; ++lane)
    votes[static_cast<std::size_t>(lane)] = static_cast<Vote*>(lanes[lane]);
  const unsigned result = Combine::of(votes);
  for (Vote* vote : votes)
    if (vote != nullptr) vote->result = result;
}

/// Bit l: lane l voted for it.
struct Ballot {
  static unsigned of(const std::array<Vote*, 32>& votes) {
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
      if (votes[lane] != nullptr && votes[lane]->value != 0) bits |= 1U << lane;
    return bits;
  }
};

template <auto kCombine>
struct Reduce {
  static unsigned of(const std::array<Vote*, 32>& votes) {
    bool first = true;
    unsigned result = 0;
    for (const Vote* vote : votes) {
      if (vote == nullptr) continue;
      result = first ? vote->value : kCombine(result, vote->value);
      first = false;
    }
    return result;
  }
};

template <typename Combine>
unsigned vote(const Collective& kind, unsigned mask, unsigned value) {
  Vote own{value, 0};
  warp_collective(kind, &own, mask);
  return own.result;
}

}  // namespace biqa::emulation

inline void __syncwarp(unsigned mask = 0xffffffffU) {
  static constexpr biqa::emulation::Collective kKind{"__syncwarp", nullptr, false, /*orders_memory=*/true};
  biqa::emulation::warp_collective(kKind, nullptr, mask);
}

// Lanes are counted within segments of `width`, a power of two up to 32.
template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  static constexpr biqa::emulation::Collective kKind{"__shfl_sync", &biqa::emulation::run_shuffle<T>, false};
  const int lane = biqa::emulation::lane();
  return biqa::emulation::shuffle(kKind, mask, value, lane / width * width + (from & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance, int width = 32) {
  static constexpr biqa::emulation::Collective kKind{"__shfl_xor_sync", &biqa::emulation::run_shuffle<T>,
                                                     false};
  const int lane = biqa::emulation::lane();
  const int from = lane ^ distance;
  return biqa::emulation::shuffle(kKind, mask, value, from / width <= lane / width ? from : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  static constexpr biqa::emulation::Collective kKind{"__shfl_down_sync", &biqa::emulation::run_shuffle<T>,
                                                     false};
  const int lane = biqa::emulation::lane();
  const int from = lane + static_cast<int>(distance);
  return biqa::emulation::shuffle(kKind, mask, value, from / width == lane / width ? from : lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  static constexpr biqa::emulation::Collective kKind{"__shfl_up_sync", &biqa::emulation::run_shuffle<T>,
                                                     false};
  const int lane = biqa::emulation::lane();
  const int from = lane - static_cast<int>(distance);
  return biqa::emulation::shuffle(kKind, mask, value, from >= lane / width * width ? from : lane);
}

inline unsigned __ballot_sync(unsigned mask, int vote) {
  static constexpr biqa::emulation::Collective kKind{
      "__ballot_sync", &biqa::emulation::run_vote<biqa::emulation::Ballot>, false};
  return biqa::emulation::vote<biqa::emulation::Ballot>(kKind, mask, vote != 0 ? 1U : 0U);
}
inline int __any_sync(unsigned mask, int vote) {
  return __ballot_sync(mask, vote) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int vote) {
  return __ballot_sync(mask, vote != 0 ? 0 : 1) == 0 ? 1 : 0;
}

#define BIQA_EMULATED_REDUCE(name, combine)                                                                \
  inline unsigned name(unsigned mask, unsigned value) {                                                    \
    using Combine = biqa::emulation::Reduce<[](unsigned a, unsigned b) { return combine; }>;               \
    static constexpr biqa::emulation::Collective kKind{#name, &biqa::emulation::run_vote<Combine>, false}; \
    return biqa::emulation::vote<Combine>(kKind, mask, value);                                             \
  }
BIQA_EMULATED_REDUCE(__reduce_add_sync, a + b)
BIQA_EMULATED_REDUCE(__reduce_min_sync, a < b ? a : b)
BIQA_EMULATED_REDUCE(__reduce_max_sync, a < b ? b : a)
BIQA_EMULATED_REDUCE(__reduce_or_sync, a | b)
BIQA_EMULATED_REDUCE(__reduce_and_sync, a& b)
#undef BIQA_EMULATED_REDUCE
