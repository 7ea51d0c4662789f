// SPDX-License-Identifier: Apache-2.0
// What mpirun and srun tell the processes they start, in the environment.
#pragma once

#include <array>
#include <cstdlib>

namespace biqa {

inline constexpr std::array kRankVariables{"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"};
inline constexpr std::array kSizeVariables{"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};

/// The value of the first of these environment variables that is a positive number, or 0.
template <std::size_t N>
int number_from(const std::array<const char*, N>& names) {
  for (const char* name : names)
    if (const char* value = std::getenv(name))
      if (const int number = std::atoi(value); number > 0) return number;
  return 0;
}
inline int number_from(const char* name) {
  return number_from(std::array{name});
}

}  // namespace biqa
