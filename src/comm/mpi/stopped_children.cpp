// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/stopped_children.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include "comm/launcher.h"

namespace biqa {
namespace {

/// The state letter in /proc/PID/stat; 'X' (dead) if the process is gone. It follows the process name, which may
/// contain any character.
char state_of(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= line.size() ? 'X' : line[name_end + 2];
}

int rank_of(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/environ", process));
  int rank = -1;
  for (std::string entry; rank < 0 && std::getline(file, entry, '\0');) {
    for (const char* name : kRankVariables) {
      const std::string_view text = entry;
      const std::size_t equals = text.find('=');
      if (equals == std::string_view::npos || text.substr(0, equals) != name) continue;
      std::from_chars(text.data() + equals + 1, text.data() + text.size(), rank);
    }
  }
  return rank;
}

}  // namespace

std::vector<StoppedChild> stopped_children(pid_t parent) {
  std::vector<StoppedChild> stopped;
  std::error_code error;
  // The kernel lists children by the thread that started them.
  std::filesystem::directory_iterator thread(fmt::format("/proc/{}/task", parent), error);
  for (; !error && thread != std::filesystem::directory_iterator(); thread.increment(error)) {
    std::ifstream list(thread->path() / "children");
    for (pid_t child = 0; list >> child;) {
      if (state_of(child) == 'T') stopped.push_back({child, rank_of(child)});
    }
  }
  std::sort(stopped.begin(), stopped.end(),
            [](const StoppedChild& a, const StoppedChild& b) { return a.process < b.process; });
  return stopped;
}

}  // namespace biqa
