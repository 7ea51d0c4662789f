// SPDX-License-Identifier: Apache-2.0
// Finds processes of this machine that a signal has stopped, by asking the kernel. Used while ranks cannot send
// heartbeats: during MPI's start and end.
#pragma once

#include <sys/types.h>

#include <vector>

namespace biqa {

struct StoppedChild {
  pid_t process = 0;
  int rank = -1;  ///< from the launcher's environment variables; -1 without them
};

/// Children of `parent` that a signal has stopped. Those stopped by a debugger are not listed. Empty if /proc does not
/// show the children: on another system, for another user's processes, or with a PID namespace per rank.
std::vector<StoppedChild> stopped_children(pid_t parent);

}  // namespace biqa
