// SPDX-License-Identifier: Apache-2.0
// Constants of waiting and of sums. The communicator uses them, and so does biqa_scale's model.
#pragma once

#include <algorithm>
#include <cstddef>

#include "comm/communicator.h"

namespace biqa {

/// A rank that has waited for a time t sleeps up to t · kSleepShare, at most kLongestSleep, before it checks again.
inline constexpr double kSleepShare = 1.0 / 16;
inline constexpr Seconds kLongestSleep{5e-3};

/// A reduce-scatter of R ranks runs in rounds of kReduceElements / R elements per rank, within these bounds.
inline constexpr std::size_t kReduceElements = std::size_t{16} << 20;
inline constexpr std::size_t kLeastReduceBlock = 4096, kLargestReduceBlock = std::size_t{1} << 20;
inline constexpr std::size_t reduce_block(std::size_t ranks) {
  return std::clamp(kReduceElements / ranks, kLeastReduceBlock, kLargestReduceBlock);
}

}  // namespace biqa
