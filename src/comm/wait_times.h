// SPDX-License-Identifier: Apache-2.0
// How ranks wait for messages and in which pieces they sum. biqa_scale's model asks these too.
#pragma once

#include <cstddef>

#include "comm/communicator.h"

namespace biqa {

/// Who has waited for a time t sleeps up to t · kSleepShare before it looks again, at most kLongestSleep.
inline constexpr double kSleepShare = 1.0 / 16;
inline constexpr Seconds kLongestSleep{5e-3};

/// A reduce-scatter of R ranks runs in rounds of kReduceElements / R elements for each rank, within these bounds.
inline constexpr std::size_t kReduceElements = std::size_t{16} << 20;
inline constexpr std::size_t kLeastReduceBlock = 4096, kLargestReduceBlock = std::size_t{1} << 20;

}  // namespace biqa
