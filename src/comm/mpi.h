// SPDX-License-Identifier: Apache-2.0
// The job's processes as ranks, over MPI.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/watch.h"

namespace biqa {

/// Starts and ends MPI; one object per process. A process that was not started by a launcher (mpirun, srun --mpi=pmix)
/// is a single rank and does not start MPI.
class MpiRuntime {
 public:
  /// The environment variable BIQA_DEADLINE_SECONDS replaces `deadline`. Throws Error if a launcher started several
  /// ranks that cannot find each other.
  explicit MpiRuntime(Seconds deadline = kDefaultDeadline);
  /// Ends the whole job if finalize() was not called, because the other ranks would wait for this one.
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  /// All ranks of the job.
  Communicator& world() { return *world_; }
  bool launched() const { return launched_; }

  /// Starts a thread that watches all ranks; every rank calls it. The first rank that notices a loss prints one error
  /// line naming the lost rank. The thread of each rank ends the job by force if the process still runs `grace` after
  /// the loss. Returns nullptr for a single rank. If this MPI does not support calls from two threads, warns and
  /// returns nullptr.
  Watch* watch(const WatchTimes& times = {});

  /// Waits for all ranks, then ends MPI. Destroy all sub-communicators before.
  void finalize();
  /// Ends every rank of the job at once with this exit code, without destructors. Flush the logs before.
  [[noreturn]] void abort(int exit_code);

 private:
  std::unique_ptr<Communicator> world_;
  std::unique_ptr<Watch> watch_;
  bool launched_ = false, threads_ = false;
};

}  // namespace biqa
