// SPDX-License-Identifier: Apache-2.0
// The processors that a process may use. Its affinity mask and its control groups limit them.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace biqa {

/// Numbers of the processors on which a process (0: this one) may run, ascending. Empty if unknown.
std::vector<int> allowed_processors(pid_t process = 0);

/// As allowed_processors() of this process. If these are unknown, all processors of the machine. Empty if their number
/// is unknown too.
std::vector<int> allowed_or_all_processors();

/// Processor time that the control groups of this process grant, as a number of processors; infinite without a limit.
/// A group's limit is in cpu.max (version 1: cpu.cfs_quota_us and cpu.cfs_period_us). The smallest limit of the group
/// and its parents counts. Tests pass another folder than "/" as `root`.
double granted_processors(const std::filesystem::path& root = "/");

/// Number of processors that this process may use, at least 1. A grant of 2.5 counts as 2: a third thread would make
/// all threads wait.
int usable_processors();

/// The first number of a list like OMP_NUM_THREADS ("8" or "8,4"); nothing if OpenMP would ignore the list.
std::optional<int> first_of_thread_list(std::string_view text);

/// Number of threads for a process that may use `processors` processors: `configured` if > 0, otherwise OMP_NUM_THREADS
/// if set, otherwise `processors`. At most OMP_THREAD_LIMIT.
int threads_for(int processors, int configured = 0);

}  // namespace biqa
