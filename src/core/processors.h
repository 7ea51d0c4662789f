// SPDX-License-Identifier: Apache-2.0
// How many processors a process may use: those of its affinity mask, no more than its control groups grant, never
// simply those of the machine.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace biqa {

/// Numbers of the processors that a process (0: this one) may run on, ascending; empty where the system does not say.
std::vector<int> allowed_processors(pid_t process = 0);

/// Processors' worth of time that the control groups of this process grant (cpu.max, or cpu.cfs_quota_us of version 1;
/// the least of a group and all above it); infinite without a limit. `root` stands for "/" in tests.
double granted_processors(const std::filesystem::path& root = "/");

/// Processors that this process may use, at least 1: a grant of 2.5 is 2, as a third thread would make all wait.
int usable_processors();

/// The first number of a list as OMP_NUM_THREADS holds it, "8" or "8,4"; nothing where OpenMP would ignore the list.
std::optional<int> first_of_thread_list(std::string_view text);

/// Threads of a process that may use so many processors: OMP_NUM_THREADS where that is set, which is per process, and
/// no more than OMP_THREAD_LIMIT. `configured` > 0 wins over OMP_NUM_THREADS.
int threads_for(int processors, int configured = 0);

}  // namespace biqa
