// SPDX-License-Identifier: Apache-2.0
// Shared by all programs: flags, help, version, the error line and the exit code.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"

namespace biqa {

/// A flag, as --help shows it. A flag with an empty `value` is a switch (`--name` or `--noname`).
struct FlagInfo {
  std::string name;
  /// placeholder for the flag's value in --help, e.g. "DIR"; a trailing "…" means that the flag may be repeated
  std::string value;
  std::string help;  ///< with the unit
  std::string fallback;
};

struct ProgramInfo {
  std::string name;     ///< biqa_score
  std::string summary;  ///< one line
  std::string usage;    ///< the text after the program's name
  std::string example;
  std::vector<FlagInfo> flags;
  bool parallel = false;  ///< its processes are ranks of one job with the same command line
};

class CommandLine {
 public:
  /// Throws Error (usage) for an unknown flag (naming the nearest known one) and for a missing or repeated value.
  CommandLine(const ProgramInfo& info, const std::vector<std::string>& arguments);

  const std::vector<std::string>& positional() const { return positional_; }
  bool has(const std::string& flag) const { return values_.count(flag) != 0; }
  bool on(const std::string& flag) const;
  std::string text(const std::string& flag) const;  ///< the given value or the default
  std::vector<std::string> texts(const std::string& flag) const;
  /// Throws Error (usage) naming flag, value and range.
  std::int64_t integer(const std::string& flag, std::int64_t least, std::int64_t most) const;
  double number(const std::string& flag, double least, double most) const;
  /// The value, which must be one of `allowed`.
  std::string choice(const std::string& flag, const std::vector<std::string>& allowed) const;

 private:
  const FlagInfo& info_of(const std::string& flag) const;
  const ProgramInfo& info_;
  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::string> positional_;
};

/// Throws Error (usage) if a given output flag names one of `inputs`, or the same file as another output flag. Another
/// path to the file, or a link, also counts.
void refuse_overwriting(const CommandLine& line, const std::vector<std::string>& output_flags,
                        const std::vector<std::filesystem::path>& inputs);

/// Makes waiting OpenMP threads spin for a fraction of a millisecond and then sleep. If they spun for
/// several milliseconds (libgomp's default), a step would be twenty times slower while other processes need the cores. If
/// they slept at once, sampling would be half as fast on free cores (docs/decisions/0019-waiting-threads.md). libgomp reads its settings
/// before main, so this function sets GOMP_SPINCOUNT and starts the program again in the same process. Does nothing if
/// the user has set GOMP_SPINCOUNT or OMP_WAIT_POLICY. Call it before setting signal handlers, because the new start
/// removes them. run_program calls it too.
void limit_spinning(char** argv);

/// Handles --help and --version, otherwise runs `body`. Prints an exception as `error: …` and ends the process with its
/// exit code, without exit handlers. In a parallel program only rank 0 prints help and command-line errors. The rank is
/// read from the launcher's environment variables, because MPI has not started yet.
int run_program(int argc, char** argv, const ProgramInfo& info,
                const std::function<ExitCode(const CommandLine&)>& body);

/// Flushes standard output. Throws Error if this or an earlier write failed.
void flush_output();

}  // namespace biqa
