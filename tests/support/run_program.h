// SPDX-License-Identifier: Apache-2.0
// Runs a built program to its end and captures its output.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "support/temporary_folder.h"

namespace biqa::testing {

/// A program that takes longer counts as hanging. The limit is generous, because the machine may be busy.
inline constexpr std::chrono::seconds kPatience{120};

struct ProgramOutcome {
  int code = -1;   ///< exit code; -1 if a signal ended it
  int signal = 0;  ///< that ended it
  bool hung = false;
  std::string out, err;

  std::vector<std::string> errors() const {
    std::vector<std::string> found;
    std::istringstream lines(err);
    for (std::string line; std::getline(lines, line);) {
      line.erase(0, line.find_first_not_of('\0'));  // Open MPI 5 ends its own text with one
      if (line.starts_with("error: ")) found.push_back(line);
    }
    return found;
  }
};

struct ProgramSurroundings {
  std::string output;                   ///< file for standard output; empty: a temporary file
  rlim_t largest_file = RLIM_INFINITY;  ///< bytes; simulates a disk that is full beyond it
  /// Called every few milliseconds with the process id.
  std::function<void(pid_t)> meanwhile;
};

/// `folder` contains the output while the program runs.
inline ProgramOutcome run_program(const std::filesystem::path& folder, std::vector<std::string> words,
                                  const ProgramSurroundings& surroundings = {}) {
  const std::string out = surroundings.output.empty() ? (folder / "stdout").string() : surroundings.output;
  const std::string err = (folder / "stderr").string();
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::setpgid(0, 0);
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
    ::setenv("OMP_NUM_THREADS", "1", 1);
    if (surroundings.largest_file != RLIM_INFINITY) {
      // Without MPI's shared memory, which is a file and would exceed the limit.
      ::setenv("OMPI_MCA_btl", "self", 1);
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{surroundings.largest_file, surroundings.largest_file};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    ::execvp(argv.front(), argv.data());
    ::_exit(127);
  }
  ProgramOutcome outcome;
  const auto start = std::chrono::steady_clock::now();
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() - start > kPatience) {
      outcome.hung = true;
      ::kill(-child, SIGKILL);
      ::waitpid(child, &status, 0);
      break;
    }
    if (surroundings.meanwhile) surroundings.meanwhile(child);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
  outcome.out = std::filesystem::is_regular_file(out) ? file_content(out) : "";
  outcome.err = file_content(err);
  return outcome;
}

}  // namespace biqa::testing
