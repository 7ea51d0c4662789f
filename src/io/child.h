// SPDX-License-Identifier: Apache-2.0
// Runs work on files that may crash a library in a child process. A crash of the child is one of the results.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace biqa {

struct ChildLimits {
  std::uint64_t cpu_seconds = 60;
  std::uint64_t memory = 0;  ///< bytes in addition to what the process has mapped at the fork; 0: no limit
};

/// Runs `work` in a forked child and returns its answer. Nothing if the child crashed, exceeded the limits, or returned
/// an empty text. An exception that leaves `work` also counts as a crash. The child has a copy of the caller's memory
/// and no output of its own. Throws Error if the system cannot start a process, and if this process
/// has opened a GPU (core/open_device.h).
std::optional<std::string> answer_of_child(const std::function<std::string()>& work,
                                           const ChildLimits& limits = {});

}  // namespace biqa
