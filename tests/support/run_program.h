// SPDX-License-Identifier: Apache-2.0
// Runs a built program to its end and takes what it prints.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "support/temporary_folder.h"

namespace biqa::testing {

struct ProgramOutcome {
  int code = -1;  ///< exit code; -1 when a signal ended it
  std::string out, err;
};

/// `folder` holds what the program prints while it runs.
inline ProgramOutcome run_program(const std::filesystem::path& folder, std::vector<std::string> words) {
  const std::string out = (folder / "stdout").string(), err = (folder / "stderr").string();
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), STDOUT_FILENO);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), STDERR_FILENO);
    ::setenv("OMP_NUM_THREADS", "1", 1);
    ::execvp(argv.front(), argv.data());
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, file_content(out), file_content(err)};
}

}  // namespace biqa::testing
