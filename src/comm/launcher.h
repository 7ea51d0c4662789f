// SPDX-License-Identifier: Apache-2.0
// Environment variables that mpirun and srun set for the processes they start.
#pragma once

#include <cstdlib>
#include <initializer_list>

namespace biqa {

inline constexpr std::initializer_list<const char*> kRankVariables{"OMPI_COMM_WORLD_RANK", "PMIX_RANK",
                                                                   "PMI_RANK"};
inline constexpr std::initializer_list<const char*> kLocalRankVariables{"OMPI_COMM_WORLD_LOCAL_RANK",
                                                                        "SLURM_LOCALID", "MPI_LOCALRANKID"};
inline constexpr std::initializer_list<const char*> kSizeVariables{"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};

/// Value of the first of these environment variables that is a number without sign; `otherwise` if there is none.
inline int number_from(std::initializer_list<const char*> names, int otherwise = 0) {
  for (const char* name : names) {
    const char* text = std::getenv(name);
    if (text != nullptr && *text >= '0' && *text <= '9') return std::atoi(text);
  }
  return otherwise;
}

}  // namespace biqa
