// SPDX-License-Identifier: Apache-2.0
// Which processes of this machine a signal has stopped, as the kernel tells: for the times in which no rank can send
// signs of life.
#pragma once

#include <sys/types.h>

#include <vector>

namespace biqa {

struct StoppedChild {
  pid_t process = 0;
  int rank = -1;  ///< as its launcher called it in the environment; -1 if it didn't
};

/// Those children of `parent` that are stopped by a signal (not by a debugger). Empty where /proc does not tell: another
/// system, another user's processes, a PID namespace for each rank.
std::vector<StoppedChild> stopped_children(pid_t parent);

}  // namespace biqa
