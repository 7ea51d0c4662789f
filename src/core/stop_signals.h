// SPDX-License-Identifier: Apache-2.0
// Requests that a person or a launcher sends to a running job by signals.
#pragma once

#include <atomic>

namespace biqa {

/// Signal handlers set these; any thread may read them.
struct StopSignals {
  std::atomic<bool> stop{false};  ///< finish the step, save, end with exit code 75
  std::atomic<bool> save{false};  ///< save at the end of the step, then continue
};

}  // namespace biqa
