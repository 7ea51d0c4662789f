// SPDX-License-Identifier: Apache-2.0
// Selection by one block without sorting. Elements have a key and an amount. In the order of the keys, the amounts are
// added until the sum exceeds a limit; the key reached is selected. Amounts are integers, so the order of addition does
// not change the sums.
#pragma once

#include <cstdint>

#include "ops/cuda/kernel_support.h"

namespace biqa::cuda {

inline constexpr int kDigitBits = 8;
inline constexpr int kDigits = 1 << kDigitBits;

/// For each value of a digit (8 bits of the key): the sum of the amounts of all keys with this digit. In shared memory.
struct Histogram {
  unsigned low[kDigits];
  unsigned high[kDigits];
  std::uint64_t groups[kWarpSize];  ///< sums of groups of kDigits / kWarpSize digits
};

/// Adds `amount` to the 64-bit sum of a digit. The sum consists of two words, because shared memory has fast atomic
/// additions for words.
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

/// Returns the smallest key K for which Σ amount(i) over all i with key(i) <= K is greater than `limit`; i runs from 0
/// to count − 1. The sum of all amounts must be greater than `limit`. Every thread of the block must call this. All
/// threads get the same result.
template <typename Key, typename Amount>
__device__ Selection select(int count, const Key& key, const Amount& amount, std::uint64_t limit,
                            Histogram& histogram) {
  constexpr int kGroup = kDigits / kWarpSize;
  Selection selection;
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    __syncthreads();  // no thread still reads the histogram of the digit before
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
