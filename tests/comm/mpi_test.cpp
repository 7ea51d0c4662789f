// SPDX-License-Identifier: Apache-2.0
// The contract over MPI, and how a job ends when a rank fails: this program starts itself under mpirun, once
// per test of the suite Inner, which without the variable below does nothing.
#include "comm/mpi.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <sstream>
#include <string_view>
#include <vector>

#include "comm/contract.h"
#include "comm/mpi/stopped_children.h"
#include "core/error.h"

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

bool stops_before_finalize = false;

constexpr const char* kInner = "BIQA_MPI_TEST_INNER";
/// Comes before an end that kills the other ranks: on a busy machine some may not have written their "pid" yet.
constexpr const char* kAllTold = "all have told their number";

class Inner : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv(kInner) == nullptr) GTEST_SKIP() << "runs under mpirun, started by the suite Mpi";
  }

  /// What a program's main does: the body, and on an Error one line and the end of the job.
  template <typename Body>
  static void run_job(Seconds deadline, const Body& body) {
    MpiRuntime runtime(deadline);
    std::cerr << fmt::format("pid {}\n", getpid()) << std::flush;
    try {
      body(runtime.world());
      runtime.finalize();
    } catch (const Error& error) {
      std::cerr << fmt::format("error: {}\n", error.what()) << std::flush;
      runtime.abort(static_cast<int>(error.code()));
    }
  }
};

TEST_F(Inner, Contract) {
  run_job(Seconds{60}, [](Communicator& world) {
    for (const testing::ContractCheck& check : testing::contract()) {
      SCOPED_TRACE(check.name);
      check.run(world);
    }
    if (world.rank() == 0) std::cerr << fmt::format("contract held on {} ranks\n", world.size());
  });
}

TEST_F(Inner, ContractOfAPart) {
  run_job(Seconds{60}, [](Communicator& world) {
    std::vector<int> members;
    for (int rank = world.size() - 1; rank > 0; --rank) members.push_back(rank);
    if (const auto part = world.split(members, "all but rank 0"))
      for (const testing::ContractCheck& check : testing::contract()) check.run(*part);
  });
}

TEST_F(Inner, IdleRanksSleep) {
  run_job(Seconds{60}, [](Communicator& world) {
    const std::clock_t before = std::clock();
    if (world.rank() == world.size() - 1) std::this_thread::sleep_for(std::chrono::seconds(2));
    world.barrier("the sleeper");
    const double used = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
    EXPECT_LT(used, 0.1) << "processor seconds in a wait of 2 s";
  });
}

TEST_F(Inner, ARankThrows) {
  run_job(Seconds{60}, [](Communicator& world) {
    world.barrier(kAllTold);
    if (world.rank() == 1) fail("reading the moon on rank {}: it is not there; look elsewhere", world.rank());
    world.barrier("never complete");
  });
}

TEST_F(Inner, AnExceptionPassesTheRuntime) {
  MpiRuntime runtime(Seconds{60});
  std::cerr << fmt::format("pid {}\n", getpid()) << std::flush;
  runtime.world().barrier(kAllTold);
  if (runtime.world().rank() == 1) throw std::runtime_error("not caught by the job");
  runtime.world().barrier("never complete");
}

TEST_F(Inner, ARankIsKilled) {
  run_job(Seconds{60}, [](Communicator& world) {
    world.barrier(kAllTold);
    if (world.rank() == 1) raise(SIGKILL);
    world.barrier("never complete");
  });
}

TEST_F(Inner, ARankStops) {
  run_job(Seconds{1}, [](Communicator& world) {
    if (world.rank() == 1) raise(SIGSTOP);
    world.barrier("never complete");
  });
}

TEST_F(Inner, SizesDiffer) {
  run_job(Seconds{10}, [](Communicator& world) {
    std::vector<float> values(world.rank() == 1 ? 300000 : 300001);
    world.broadcast(View(values.data(), 1, static_cast<std::int64_t>(values.size())), 0);
  });
}

constexpr WatchTimes kQuick{Seconds{0.2}, Seconds{1.5}, Seconds{3}};

/// A job whose ranks compute for a long time; `stopped` are stopped. They give up when the watch tells them.
void run_watched(const std::vector<int>& stopped) {
  MpiRuntime runtime(Seconds{60});
  std::cerr << fmt::format("pid {}\n", getpid()) << std::flush;
  Watch* watch = runtime.watch(kQuick);
  ASSERT_NE(watch, nullptr);
  if (std::find(stopped.begin(), stopped.end(), runtime.world().rank()) != stopped.end()) raise(SIGSTOP);
  for (int i = 0; i < 3000; ++i) {
    if (const auto lost = watch->loss()) {
      std::cerr << fmt::format("rank {} knows that rank {} is lost\n", runtime.world().rank(), lost->rank)
                << std::flush;
      // Whoever hears first must not end the job before the others have heard.
      std::this_thread::sleep_for(Seconds{1});
      runtime.abort(lost->exit_code);
    }
    std::this_thread::sleep_for(Seconds{0.01});
  }
  runtime.finalize();
}

TEST_F(Inner, ARankStopsUnderWatch) {
  run_watched({2});
}
TEST_F(Inner, TheFirstRankStopsUnderWatch) {
  run_watched({0});
}
TEST_F(Inner, TheFirstTwoRanksStopUnderWatch) {
  run_watched({0, 1});
}
TEST_F(Inner, ARankStopsBeforeMpiStarts) {
  if (std::string_view(std::getenv("OMPI_COMM_WORLD_RANK")) == "0") raise(SIGSTOP);
  MpiRuntime runtime;
}

TEST_F(Inner, ARankStopsWhileMpiStarts) {
  const bool stops = std::string_view(std::getenv("OMPI_COMM_WORLD_RANK")) == "2";
  std::cerr << fmt::format("pid {}\n", getpid()) << std::flush;
  if (!stops) std::this_thread::sleep_for(Seconds{1});  // until then it can't be through
  std::thread stopper([&] {
    std::this_thread::sleep_for(Seconds{0.3});
    if (stops) raise(SIGSTOP);
  });
  MpiRuntime runtime;
  stopper.join();
}
TEST_F(Inner, ARankStopsWhileMpiEnds) {
  stops_before_finalize = std::string_view(std::getenv("OMPI_COMM_WORLD_RANK")) == "1";
  run_job(Seconds{60}, [](Communicator& world) { world.barrier("begun"); });
}

TEST_F(Inner, ARankTellsItsFailure) {
  MpiRuntime runtime(Seconds{60});
  std::cerr << fmt::format("pid {}\n", getpid()) << std::flush;
  Watch* watch = runtime.watch(kQuick);
  ASSERT_NE(watch, nullptr);
  runtime.world().set_poll([&] {
    if (const auto lost = watch->loss()) fail("rank {} is lost with code {}", lost->rank, lost->exit_code);
  });
  try {
    if (runtime.world().rank() == 1) {
      watch->tell_failure(2);
      std::this_thread::sleep_for(Seconds{60});  // the watch takes the job down
    }
    runtime.world().barrier("never complete");
  } catch (const Error& error) {
    std::cerr << fmt::format("rank {}: {}\n", runtime.world().rank(), error.what()) << std::flush;
    std::this_thread::sleep_for(Seconds{60});
  }
}

/// All is well as long as everyone lives, however long nobody communicates.
TEST_F(Inner, WatchedRanksCompute) {
  MpiRuntime runtime(Seconds{60});
  std::cerr << fmt::format("pid {}\n", getpid()) << std::flush;
  Watch* watch = runtime.watch(kQuick);
  ASSERT_NE(watch, nullptr);
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < Seconds{4}) {
    ASSERT_FALSE(watch->loss().has_value());
  }
  runtime.finalize();
}

struct Outcome {
  int exit_code = -1;
  double seconds =
      0;  ///< since the first process told its number; how long mpirun takes to start is not the job's
  std::string output;
  int processes = 0, left_over = 0;
};

/// Dead processes stay visible until init collects them: those count as gone.
bool is_running(int pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return false;
  const std::size_t state = line.rfind(')') + 2;
  return state < line.size() && line[state] != 'Z' && line[state] != 'X';
}

/// Runs one test of the suite Inner on this many ranks.
Outcome run_inner(int ranks, const std::string& test) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe");
  const std::string command = fmt::format(
      "{}=1 timeout -k 5 120 mpirun --allow-run-as-root --oversubscribe -np {} '{}' --gtest_brief=1 "
      "--gtest_filter=Inner.{} 2>&1",
      kInner, ranks, program, test);
  Outcome outcome;
  auto start = std::chrono::steady_clock::now();
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> buffer{};
  bool started = false;
  for (ssize_t count = 0; (count = ::read(fileno(pipe), buffer.data(), buffer.size())) > 0;) {
    outcome.output.append(buffer.data(), static_cast<std::size_t>(count));
    if (started || outcome.output.find("pid ") == std::string::npos) continue;
    started = true;
    start = std::chrono::steady_clock::now();
  }
  const int status = pclose(pipe);
  outcome.seconds = Seconds(std::chrono::steady_clock::now() - start).count();
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);

  std::istringstream lines(outcome.output);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("pid ")) {
      ++outcome.processes;
      const int pid = std::stoi(line.substr(4));
      const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(5);
      while (is_running(pid) && std::chrono::steady_clock::now() < patience)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      if (is_running(pid)) ++outcome.left_over;
    }
  return outcome;
}

/// The job ended by itself, quickly, with this exit code, and nothing of it is left.
void expect_failure(const Outcome& outcome, int ranks, double seconds, int exit_code) {
  EXPECT_EQ(outcome.exit_code, exit_code) << outcome.output;
  EXPECT_LT(outcome.seconds, seconds);
  EXPECT_EQ(outcome.processes, ranks) << outcome.output;
  EXPECT_EQ(outcome.left_over, 0);
}

class Mpi : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv(kInner) != nullptr) GTEST_SKIP() << "only the suite Inner runs under mpirun";
    if (std::system("mpirun --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "mpirun does not start here";
  }
};

TEST_F(Mpi, ContractHoldsOnAnyNumberOfRanksInSilence) {
  for (const int ranks : {1, 2, 3, 5}) {
    const Outcome outcome = run_inner(ranks, "Contract");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(fmt::format("contract held on {} ranks", ranks)));
    EXPECT_THAT(outcome.output,
                AllOf(Not(HasSubstr("WARNING")), Not(HasSubstr("-----")), Not(HasSubstr("MPI"))));
    EXPECT_EQ(outcome.processes, ranks);
    EXPECT_EQ(outcome.left_over, 0);
  }
}

TEST_F(Mpi, ContractHoldsInASubCommunicator) {
  const Outcome outcome = run_inner(4, "ContractOfAPart");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

TEST_F(Mpi, IdleRanksLeaveTheProcessorAlone) {
  const Outcome outcome = run_inner(3, "IdleRanksSleep");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

TEST_F(Mpi, AnErrorOnOneRankEndsTheJob) {
  const Outcome outcome = run_inner(3, "ARankThrows");
  expect_failure(outcome, 3, 10, 1);
  EXPECT_THAT(outcome.output, HasSubstr("error: reading the moon on rank 1"));
}

TEST_F(Mpi, AnExceptionThatPassesTheRuntimeEndsTheJob) {
  expect_failure(run_inner(3, "AnExceptionPassesTheRuntime"), 3, 10, 1);
}

TEST_F(Mpi, AKilledRankEndsTheJob) {
  expect_failure(run_inner(3, "ARankIsKilled"), 3, 10, 128 + SIGKILL);
}

TEST_F(Mpi, AStoppedRankIsNamedAndEndsTheJob) {
  const Outcome outcome = run_inner(3, "ARankStops");
  expect_failure(outcome, 3, 15, 1);
  EXPECT_THAT(
      outcome.output,
      HasSubstr(
          "error: barrier \"never complete\" of the job on rank 0: rank 1 did not answer within 1.0 s"));
}

TEST_F(Mpi, TheWatchNamesAStoppedRankWhileTheOthersCompute) {
  const Outcome outcome = run_inner(3, "ARankStopsUnderWatch");
  expect_failure(outcome, 3, 15, 1);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("error: rank 0 of 3: no heartbeat from rank 2 for 2 s"),
                                    HasSubstr("rank 1 knows that rank 2 is lost")));
  EXPECT_EQ(outcome.output.find("error:"), outcome.output.rfind("error:")) << outcome.output;
}

TEST_F(Mpi, TheWatchNamesTheFirstRank) {
  const Outcome outcome = run_inner(3, "TheFirstRankStopsUnderWatch");
  expect_failure(outcome, 3, 15, 1);
  EXPECT_THAT(outcome.output, HasSubstr("error: rank 1 of 3: no heartbeat from rank 0"));
  EXPECT_EQ(outcome.output.find("error:"), outcome.output.rfind("error:")) << outcome.output;
}

// Rank 1, which says that rank 0 is lost, is lost too.
TEST_F(Mpi, TheWatchNamesTheFirstRankWhateverElseIsLost) {
  const Outcome outcome = run_inner(4, "TheFirstTwoRanksStopUnderWatch");
  expect_failure(outcome, 4, 20, 1);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("error: rank 2 of 4: no heartbeat from rank 0"),
                                    HasSubstr("rank 3 knows that rank 0 is lost")));
  EXPECT_EQ(outcome.output.find("error:"), outcome.output.rfind("error:")) << outcome.output;
}

TEST_F(Mpi, AJobThatCannotStartEnds) {
  setenv("BIQA_START_SECONDS", "2", 1);
  const Outcome outcome = run_inner(3, "ARankStopsBeforeMpiStarts");
  unsetenv("BIQA_START_SECONDS");
  EXPECT_NE(outcome.exit_code, 0) << outcome.output;
  EXPECT_LT(outcome.seconds, 30);
  EXPECT_THAT(outcome.output, HasSubstr("error: MPI_Init_thread did not return within 6 s"));
}

// At once, for each takes the watch's ten seconds.
TEST_F(Mpi, ARankThatIsStoppedBesideTheWatchIsNamed) {
  const auto run = [](const char* test) { return std::async(std::launch::async, run_inner, 3, test); };
  std::future<Outcome> before = run("ARankStopsBeforeMpiStarts");
  std::future<Outcome> start = run("ARankStopsWhileMpiStarts");
  std::future<Outcome> end = run("ARankStopsWhileMpiEnds");
  const auto expect_named = [](Outcome outcome, int processes, int rank, const char* call) {
    // Open MPI 4.1's mpirun now and then crashes or stays as it ends a job that never got through MPI_Init.
    if (outcome.exit_code > 128 && outcome.output.find("mpirun detected that one") != std::string::npos) {
      std::cerr << "mpirun's own end is not looked at: it ended with " << outcome.exit_code << "\n";
      outcome.exit_code = 1;
      outcome.seconds = 0;
    }
    expect_failure(outcome, processes, 15, 1);
    EXPECT_THAT(outcome.output, AllOf(HasSubstr(fmt::format("error: rank {} (process ", rank)),
                                      HasSubstr(fmt::format("delays {};", call))));
    EXPECT_EQ(outcome.output.find("error:"), outcome.output.rfind("error:")) << outcome.output;
  };
  expect_named(before.get(), 0, 0, "MPI_Init_thread");
  expect_named(start.get(), 3, 2, "MPI_Init_thread");
  const Outcome woken = end.get();
  EXPECT_EQ(woken.exit_code, 0) << woken.output;
  EXPECT_LT(woken.seconds, 15);
  EXPECT_EQ(woken.left_over, 0);
  EXPECT_THAT(woken.output, AllOf(HasSubstr("rank 1 (process "),
                                  HasSubstr("all work is done, so it is continued (SIGCONT)")));
}

TEST_F(Mpi, OnlyStoppedChildrenAreListed) {
  const auto start = [] {
    const pid_t child = fork();
    if (child == 0) {
      execle("/bin/sleep", "sleep", "60", nullptr,
             std::array<const char*, 2>{"PMIX_RANK=17", nullptr}.data());
      _exit(1);
    }
    return child;
  };
  const pid_t runs = start(), stops = start();
  const auto listed_within = [](std::size_t count) {
    std::vector<StoppedChild> found;
    for (int i = 0; i < 500; ++i) {
      found = stopped_children(getpid());
      if (found.size() == count && (count == 0 || found[0].rank >= 0)) break;
      std::this_thread::sleep_for(Seconds{0.01});
    }
    return found;
  };
  EXPECT_TRUE(stopped_children(getpid()).empty());
  std::this_thread::sleep_for(Seconds{0.2});  // it is sleep by then
  kill(stops, SIGSTOP);
  const std::vector<StoppedChild> found = listed_within(1);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].process, stops);
  EXPECT_EQ(found[0].rank, 17);
  kill(stops, SIGCONT);
  EXPECT_TRUE(listed_within(0).empty());
  for (const pid_t child : {runs, stops}) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
  EXPECT_TRUE(stopped_children(getpid()).empty());
}

TEST_F(Mpi, AFailureIsPassedOnAndTheJobEndsWithItsCode) {
  const Outcome outcome = run_inner(3, "ARankTellsItsFailure");
  expect_failure(outcome, 3, 15, 2);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("rank 0: rank 1 is lost with code 2"),
                                    HasSubstr("rank 2: rank 1 is lost with code 2")));
}

TEST_F(Mpi, TheWatchIsContentWithBusyRanks) {
  const Outcome outcome = run_inner(3, "WatchedRanksCompute");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

TEST_F(Mpi, DifferentSizesEndTheJob) {
  const Outcome outcome = run_inner(2, "SizesDiffer");
  expect_failure(outcome, 2, 10, 1);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("300000 f32"), HasSubstr("300001 f32")));
}

TEST_F(Mpi, WithoutALauncherThereIsOneRankAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  MpiRuntime runtime;
  EXPECT_FALSE(runtime.launched());
  EXPECT_EQ(runtime.world().size(), 1);
  runtime.world().barrier("alone");
  runtime.finalize();
  EXPECT_LT(Seconds(std::chrono::steady_clock::now() - start).count(), 0.3);
}

TEST_F(Mpi, TasksOfALauncherWithoutMpiAreRefused) {
  setenv("SLURM_STEP_NUM_TASKS", "4", 1);
  EXPECT_THROW(MpiRuntime(), Error);
  unsetenv("SLURM_STEP_NUM_TASKS");
}

TEST_F(Mpi, AbortAloneExitsWithItsCode) {
  EXPECT_EXIT(MpiRuntime().abort(75), ::testing::ExitedWithCode(75), "");
}

}  // namespace
}  // namespace biqa

// In place of the library's: stops between the job's last barrier and the end of MPI.
extern "C" int MPI_Finalize() {
  if (biqa::stops_before_finalize) raise(SIGSTOP);
  return PMPI_Finalize();
}
