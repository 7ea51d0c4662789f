// SPDX-License-Identifier: Apache-2.0
// Simulates file systems on which some calls fail. A test program that includes this replaces flock, fsync, rename and
// symlink, also for its libraries.
#pragma once

#include <atomic>
#include <string>

namespace biqa::testing {

/// Error numbers that the calls return; 0: they work normally.
struct FailingCalls {
  std::atomic<int> lock = 0;         ///< flock
  std::atomic<int> signals = 0;      ///< so many calls of flock, fsync and rename are interrupted first
  std::atomic<int> sync_folder = 0;  ///< fsync of a folder
  std::atomic<int> sync_file = 0;    ///< fsync of anything else
  std::atomic<int> link = 0;         ///< symlink
  /// sync_file fails only for files whose path contains this. Set it before threads start.
  std::string part_of_path;
};
FailingCalls& failing_calls();

/// Restores normal calls when a test ends.
struct FailingCallsReset {
  FailingCallsReset() = default;
  ~FailingCallsReset() {
    FailingCalls& calls = failing_calls();
    calls.lock = calls.signals = calls.sync_folder = calls.sync_file = calls.link = 0;
    calls.part_of_path.clear();
  }
  FailingCallsReset(const FailingCallsReset&) = delete;
  FailingCallsReset& operator=(const FailingCallsReset&) = delete;
};

}  // namespace biqa::testing
