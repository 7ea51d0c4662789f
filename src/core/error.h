// SPDX-License-Identifier: Apache-2.0
// The exception type for failures outside the program: files, configuration, other processes, devices, memory.
// Programming errors are CHECKs (glog). A message has the form `<what> <where>: <why>; <what to do>`.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace biqa {

/// Exit codes of every program. `done`: success. `world`: something outside the program failed. `usage`: wrong flags or
/// configuration. `partial`: finished, but some inputs failed. `stopped`: stopped on request; the same command resumes.
enum class ExitCode : int { done = 0, world = 1, usage = 2, partial = 3, stopped = 75 };

/// `text` as one line that cannot steer a terminal: control characters are escaped, for example as `\n` or `\x1b`. A text
/// without control characters stays as it is.
std::string one_line(std::string_view text);

/// A failure outside the program. A program prints it as one line `error: …` and exits with `code()`. Messages quote
/// contents and names of files, so the constructor applies one_line().
class Error : public std::runtime_error {
 public:
  explicit Error(std::string_view message, ExitCode code = ExitCode::world)
      : std::runtime_error(one_line(message)), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// Throws an Error with exit code 1: file, data, peer, device, memory.
template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws an Error with exit code 2: wrong usage or configuration.
template <typename... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...), ExitCode::usage);
}

/// Prints `text` on standard error at once. A line end at its end is kept; one_line() is applied to the rest. Ignores
/// failures, for example if the reader of a pipe has ended.
void say_line(std::string_view text);

/// Formats a text and calls say_line(). `format` must end with a line end.
template <typename... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  say_line(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace biqa
