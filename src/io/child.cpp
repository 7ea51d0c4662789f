// SPDX-License-Identifier: Apache-2.0
#include "io/child.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <system_error>

#include "core/error.h"
#include "core/open_device.h"

namespace biqa {
namespace {

/// Bytes that this process has mapped.
std::uint64_t mapped_bytes() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

void set_limit(__rlimit_resource_t resource, std::uint64_t value) {
  const rlimit limit{value, value};
  ::setrlimit(resource, &limit);
}

[[noreturn]] void run_child(int pipe, const std::function<std::string()>& work, const ChildLimits& limits) {
  // Inherited crash handlers would print or hang. In the child a crash is a result.
  for (const int signal : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGXCPU}) std::signal(signal, SIG_DFL);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  set_limit(RLIMIT_CORE, 0);
  set_limit(RLIMIT_CPU, limits.cpu_seconds);
  if (limits.memory > 0) set_limit(RLIMIT_AS, mapped_bytes() + limits.memory);
  // The libraries report their own errors there.
  if (const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC); nowhere >= 0)
    ::dup2(nowhere, STDERR_FILENO);
  int status = 1;
  try {
    const std::string answer = work();
    std::size_t sent = 0;
    while (sent < answer.size()) {
      const ssize_t count = ::write(pipe, answer.data() + sent, answer.size() - sent);
      if (count < 0 && errno != EINTR) break;
      if (count > 0) sent += static_cast<std::size_t>(count);
    }
    status = sent == answer.size() ? 0 : 1;
  } catch (...) {
    // the status says it
  }
  ::_exit(status);
}

/// Reads until the other end is closed.
std::string read_all(int pipe) {
  std::string answer;
  std::array<char, 65536> piece{};
  while (true) {
    const ssize_t count = ::read(pipe, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return answer;
    answer.append(piece.data(), static_cast<std::size_t>(count));
  }
}

}  // namespace

std::optional<std::string> answer_of_child(const std::function<std::string()>& work,
                                           const ChildLimits& limits) {
  if (device_is_open) {
    fail(
        "internal error: a child process must check a file, but the GPU is already open; please report this, "
        "with the command");
  }
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0)
    fail("cannot start a process: {}; close other programs", std::generic_category().message(errno));
  const pid_t child = ::fork();
  if (child == 0) run_child(pipe[1], work, limits);
  const int error = errno;
  ::close(pipe[1]);
  if (child < 0) {
    ::close(pipe[0]);
    fail("cannot start a process: {}; free some memory", std::generic_category().message(error));
  }
  std::string answer = read_all(pipe[0]);
  ::close(pipe[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || answer.empty()) return std::nullopt;
  return answer;
}

}  // namespace biqa
