// SPDX-License-Identifier: Apache-2.0
// Selection by a block without sorting: the key at which the sum of the amounts of all smaller keys passes a limit. All amounts
// are integers, so no sum depends on an order.
#pragma once

#include <cstdint>

#include "ops/cuda/kernel_support.h"

namespace biqa::cuda {

inline constexpr int kDigitBits = 8;
inline constexpr int kDigits = 1 << kDigitBits;

/// Sums of amounts by a digit of their keys, in shared memory.
struct Histogram {
  unsigned low[kDigits];
  unsigned high[kDigits];
  std::uint64_t groups[kWarpSize];  ///< of kDigits / kWarpSize digits each
};

/// Adds to a 64-bit sum in two words, for which there are fast atomic additions in shared memory.
__device__ inline void add(Histogram& histogram, unsigned digit, std::uint64_t amount) {
  const auto low = static_cast<unsigned>(amount);
  const unsigned before = low == 0 ? 0 : atomicAdd(&histogram.low[digit], low);
  const unsigned carry = before + low < before ? 1 : 0;
  const unsigned high = static_cast<unsigned>(amount >> 32) + carry;
  if (high != 0) atomicAdd(&histogram.high[digit], high);
}
__device__ inline std::uint64_t sum_of(const Histogram& histogram, int digit) {
  return static_cast<std::uint64_t>(histogram.high[digit]) << 32 | histogram.low[digit];
}

struct Selection {
  unsigned key = 0;
  std::uint64_t below = 0;  ///< sum of the amounts of smaller keys
};

/// The smallest key with Σ amount(i) over key(i) <= it greater than `limit`, for i from 0 to count − 1. The sum of all amounts
/// must be greater than `limit`. Every thread of the block calls this and gets the same.
template <typename Key, typename Amount>
__device__ Selection select(int count, const Key& key, const Amount& amount, std::uint64_t limit,
                            Histogram& histogram) {
  constexpr int kGroup = kDigits / kWarpSize;
  Selection selection;
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    __syncthreads();  // nobody reads the histogram of the digit before
    for (int digit = thread_index(); digit < kDigits; digit += block_threads())
      histogram.low[digit] = histogram.high[digit] = 0;
    __syncthreads();
    for (int i = thread_index(); i < count; i += block_threads()) {
      const std::uint64_t own = key(i);
      if (own >> (shift + kDigitBits) != selection.key) continue;
      add(histogram, static_cast<unsigned>(own >> shift) % kDigits, amount(i));
    }
    __syncthreads();
    if (thread_index() < kWarpSize) {
      std::uint64_t sum = 0;
      for (int i = 0; i < kGroup; ++i) sum += sum_of(histogram, thread_index() * kGroup + i);
      histogram.groups[thread_index()] = sum;
    }
    __syncthreads();
    int group = 0;
    while (group < kWarpSize - 1 && selection.below + histogram.groups[group] <= limit)
      selection.below += histogram.groups[group++];
    int digit = group * kGroup;
    while (digit < group * kGroup + kGroup - 1 && selection.below + sum_of(histogram, digit) <= limit)
      selection.below += sum_of(histogram, digit++);
    selection.key = selection.key << kDigitBits | static_cast<unsigned>(digit);
  }
  return selection;
}

}  // namespace biqa::cuda
