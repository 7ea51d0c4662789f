// SPDX-License-Identifier: Apache-2.0
// Wall time for the metrics of a step.
#pragma once

#include <chrono>

namespace biqa {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace biqa
