// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "comm/transport.h"
#include "comm/watch.h"

namespace biqa {

/// MPI_COMM_WORLD as a transport; MPI is running.
std::unique_ptr<Transport> make_mpi_transport();

/// Watches all ranks of MPI_COMM_WORLD from a thread of its own (MPI_THREAD_MULTIPLE); collective.
std::unique_ptr<Watch> make_mpi_watch(const WatchTimes& times);

/// Throws Error with MPI's own words when `code`, returned by `call`, is not MPI_SUCCESS.
void check_mpi(int code, const char* call);

}  // namespace biqa
