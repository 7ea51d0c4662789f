// SPDX-License-Identifier: Apache-2.0
#include "comm/node.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "comm/launcher.h"

namespace biqa {

std::string this_node() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  std::error_code unknown;
  // Processes open each other's memory by process id.
  const auto processes = std::filesystem::read_symlink("/proc/self/ns/pid", unknown);
  const char* slurm = std::getenv("SLURMD_NODENAME");
  return fmt::format("{} {} {} {}", host.data(), boot, processes.string(), slurm != nullptr ? slurm : "");
}

int ranks_on_node(int ranks) {
  const int local = number_from({"OMPI_COMM_WORLD_LOCAL_SIZE"});
  return local > 0 ? local : ranks;
}

}  // namespace biqa
