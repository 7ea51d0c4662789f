// SPDX-License-Identifier: Apache-2.0
// The job's processes as ranks, through MPI.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace biqa {

/// Starts and ends MPI; one per process.
/// A process that no launcher started (mpirun, srun --mpi=pmix) is one rank alone, without starting MPI at all.
class MpiRuntime {
 public:
  /// Throws Error when a launcher started several ranks that can not find each other.
  explicit MpiRuntime(Seconds deadline = kDefaultDeadline);
  /// Without finalize() before it: takes the whole job down, for this rank leaves the others in the lurch.
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  /// All ranks of the job.
  Communicator& world() { return *world_; }
  bool launched() const { return launched_; }

  /// Waits for all ranks, then ends MPI. Sub-communicators must be gone.
  void finalize();
  /// Ends every rank of the job at once with this exit code; runs no destructors. Flush the logs before.
  [[noreturn]] void abort(int exit_code);

 private:
  std::unique_ptr<Communicator> world_;
  bool launched_ = false;
};

}  // namespace biqa
