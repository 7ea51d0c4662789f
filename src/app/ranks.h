// SPDX-License-Identifier: Apache-2.0
// Programs whose processes are the ranks of one job.
#pragma once

#include <functional>

#include "comm/mpi.h"
#include "core/error.h"

namespace biqa {

/// Starts MPI and calls `body` on every rank. An exception on one rank is printed once, with the rank's number, and ends
/// the whole job with its exit code. Returns what `body` returned on this rank.
ExitCode run_on_ranks(const std::function<ExitCode(MpiRuntime& mpi)>& body);

/// Installs a handler that does not interrupt system calls.
void listen_to(int signal, void (*handler)(int));

}  // namespace biqa
