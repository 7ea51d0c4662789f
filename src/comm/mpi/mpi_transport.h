// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "comm/transport.h"
#include "comm/watch.h"

namespace biqa {

/// MPI_COMM_WORLD as a transport. MPI must be running.
std::unique_ptr<Transport> make_mpi_transport();

/// Watches all ranks of MPI_COMM_WORLD in a separate thread (needs MPI_THREAD_MULTIPLE). Collective.
std::unique_ptr<Watch> make_mpi_watch(const WatchTimes& times);

/// Throws Error with MPI's message if `code`, the result of `call`, is not MPI_SUCCESS.
void check_mpi(int code, const char* call);

}  // namespace biqa
