// SPDX-License-Identifier: Apache-2.0
// The job's processes as ranks, through MPI.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/watch.h"

namespace biqa {

/// Starts and ends MPI; one per process.
/// A process that no launcher started (mpirun, srun --mpi=pmix) is one rank alone, without starting MPI at all.
class MpiRuntime {
 public:
  /// BIQA_DEADLINE_SECONDS in the environment replaces the deadline. Throws Error when a launcher started several ranks
  /// that can not find each other.
  explicit MpiRuntime(Seconds deadline = kDefaultDeadline);
  /// Without finalize() before it: takes the whole job down, for this rank leaves the others in the lurch.
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  /// All ranks of the job.
  Communicator& world() { return *world_; }
  bool launched() const { return launched_; }

  /// Starts to watch all ranks, in a thread of its own; every rank calls it. Whoever first sees that a rank is lost
  /// prints one error line that names it; a process that is still there `grace` later takes the job down. nullptr
  /// for a rank alone, and with a warning where this MPI can't be called from two threads.
  Watch* watch(const WatchTimes& times = {});

  /// Waits for all ranks, then ends MPI. Sub-communicators must be gone.
  void finalize();
  /// Ends every rank of the job at once with this exit code; runs no destructors. Flush the logs before.
  [[noreturn]] void abort(int exit_code);

 private:
  std::unique_ptr<Communicator> world_;
  std::unique_ptr<Watch> watch_;
  bool launched_ = false, threads_ = false;
};

}  // namespace biqa
