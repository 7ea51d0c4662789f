// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <glog/logging.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "comm/launcher.h"
#include "comm/mpi.h"
#include "comm/mpi/mpi_transport.h"
#include "comm/mpi/stopped_children.h"
#include "core/error.h"
#include "core/threads.h"

namespace biqa {
namespace {

bool any_set(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (std::getenv(name) != nullptr) return true;
  return false;
}

void prefer(const char* name, const char* value) {
  setenv(name, value, 0);
}

/// MPI's start and end wait for all ranks without a deadline, and the watch does not run then. This class ends the
/// process, and so the job, if a rank of this machine is stopped or the call takes too long. BIQA_START_SECONDS is this
/// limit.
class Patience {
 public:
  /// `over`: all ranks have finished their work. Then a stopped rank is reported and continued (SIGCONT).
  explicit Patience(const char* call, bool over = false) : call_(call), over_(over) {
    const int asked = number_from({"BIQA_START_SECONDS"});
    // Lower ranks have shorter limits, so that one rank reports the failure and ends the job before the others do.
    const int turn = std::min(number_from(kRankVariables), kLastTurn);
    limit_ = Seconds{asked > 0 ? asked : kDefaultSeconds} + turn * kLongTurn;
    stopped_limit_ = WatchTimes{}.silence + turn * kTurn;
    thread_ = std::thread([this] { run_or_exit("the start or end of MPI", [this] { run(); }); });
  }
  ~Patience() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Patience(const Patience&) = delete;
  Patience& operator=(const Patience&) = delete;

 private:
  static constexpr int kDefaultSeconds = 120;
  static constexpr Seconds kTick{0.5}, kTurn{1}, kLongTurn{4};
  static constexpr int kLastTurn = 4;

  void run() {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    auto last = start;
    std::map<pid_t, Seconds> stopped;
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kTick, [this] { return ended_; })) {
      const auto now = Clock::now();
      // Time in which this process itself was stopped does not count, because the whole job may have been stopped.
      const Seconds passed = std::min<Seconds>(now - last, 2 * kTick);
      last = now;
      std::map<pid_t, Seconds> before = std::exchange(stopped, {});
      for (const StoppedChild& child : stopped_children(::getppid())) {
        const Seconds so_far = before[child.process] + passed;
        if (so_far >= stopped_limit_ && over_) {
          say("{} (process {}) was stopped (SIGSTOP) {:.0f} s ago at the end of the job; all work is done, "
              "so it is continued (SIGCONT)\n",
              child.rank < 0 ? "a rank" : fmt::format("rank {}", child.rank), child.process, so_far.count());
          ::kill(child.process, SIGCONT);
          continue;
        }
        if (so_far >= stopped_limit_)
          give_up(
              fmt::format("{} (process {}) was stopped (SIGSTOP) {:.0f} s ago and delays {}; the job ends, "
                          "start it again",
                          child.rank < 0 ? "a rank" : fmt::format("rank {}", child.rank), child.process,
                          so_far.count(), call_));
        stopped[child.process] = so_far;
      }
      if (now - start >= limit_)
        give_up(fmt::format(
            "{} did not return within {:.0f} s: a rank did not start, is cut off, or was stopped on another "
            "node; start the job again, with a larger BIQA_START_SECONDS if the machine is slow",
            call_, limit_.count()));
    }
  }

  [[noreturn]] static void give_up(const std::string& message) {
    say("error: {}\n", message);
    std::_Exit(static_cast<int>(ExitCode::world));
  }

  const char* const call_;
  const bool over_;
  Seconds limit_{0}, stopped_limit_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace

MpiRuntime::MpiRuntime(Seconds deadline) {
  if (const int asked = number_from({"BIQA_DEADLINE_SECONDS"}); asked > 0) deadline = Seconds{asked};
  launched_ = any_set({"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"});
  if (!launched_) {
    if (const int tasks = number_from({"SLURM_STEP_NUM_TASKS"}); tasks > 1)
      fail_usage(
          "srun started {} tasks without MPI: each would run the whole job; use srun --mpi=pmix, or mpirun",
          tasks);
    world_ = make_local(deadline);
    return;
  }
  // Many containers refuse direct reads of another process's memory, and MPI then warns for every message. Such reads
  // could also access buffers of a rank that has already failed. Copying through shared memory is equally fast.
  prefer("OMPI_MCA_btl_vader_single_copy_mechanism", "none");  // for Open MPI 4
  prefer("OMPI_MCA_smsc", "^cma,knem,xpmem");                  // for Open MPI 5
  // This program polls often. On a busy machine, each poll would give away a whole time slice. Instead the program
  // sleeps between polls.
  prefer("OMPI_MCA_mpi_yield_when_idle", "0");
  // Prevents warnings about network hardware that the machine does not have.
  prefer("OMPI_MCA_btl_base_warn_component_unused", "0");
  int provided = 0;
  const Patience patience("MPI_Init_thread");
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  threads_ = provided >= MPI_THREAD_MULTIPLE;
  if (provided < MPI_THREAD_SERIALIZED)
    fail("MPI_Init_thread: this MPI was built without thread support; use an MPI that has it");
  auto transport = make_mpi_transport();
  const int expected = number_from(kSizeVariables);
  if (expected > 1 && transport->size() == 1) {
    MPI_Finalize();
    fail(
        "MPI_Init: the launcher started {} ranks but this one sees only itself; use the mpirun of the MPI "
        "that "
        "biqa was built with",
        expected);
  }
  world_ = make_communicator(std::move(transport), deadline);
}

MpiRuntime::~MpiRuntime() {
  if (world_ != nullptr && launched_) abort(static_cast<int>(ExitCode::world));
}

Watch* MpiRuntime::watch(const WatchTimes& times) {
  if (!launched_ || world_->size() == 1) return nullptr;
  if (!threads_) {
    LOG(WARNING) << "this MPI cannot be called from two threads: the loss of a rank is noticed only after a "
                    "deadline of "
                 << world_->deadline().count() << " s";
    return nullptr;
  }
  CHECK(watch_ == nullptr);
  const Patience patience("MPI_Comm_dup");
  watch_ = make_mpi_watch(times);
  return watch_.get();
}

void MpiRuntime::finalize() {
  if (launched_) {
    world_->flush();
    world_->barrier("the end of the job");
  }
  watch_.reset();
  world_.reset();
  if (!launched_) return;
  const Patience patience("MPI_Finalize", true);
  check_mpi(MPI_Finalize(), "MPI_Finalize");
}

void MpiRuntime::abort(int exit_code) {
  std::fflush(nullptr);
  if (launched_) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace biqa
