// SPDX-License-Identifier: Apache-2.0
// What every program shares: flags, help, version, one error line and the exit code.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"

namespace biqa {

/// A flag as --help shows it. Flags with an empty `value` are switches (`--name` or `--noname`).
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
  std::string usage;    ///< what follows the name
  std::string example;
  std::vector<FlagInfo> flags;
  bool parallel = false;  ///< its processes are ranks of one job, given the same command line
};

class CommandLine {
 public:
  /// Throws Error (usage) for an unknown flag, a missing or repeated value, with the nearest known flag.
  CommandLine(const ProgramInfo& info, const std::vector<std::string>& arguments);

  const std::vector<std::string>& positional() const { return positional_; }
  bool has(const std::string& flag) const { return values_.count(flag) != 0; }
  bool on(const std::string& flag) const;
  std::string text(const std::string& flag) const;  ///< given or default
  std::vector<std::string> texts(const std::string& flag) const;
  /// Throws Error (usage) naming flag, value and range.
  std::int64_t integer(const std::string& flag, std::int64_t least, std::int64_t most) const;
  double number(const std::string& flag, double least, double most) const;
  /// One of the allowed words.
  std::string choice(const std::string& flag, const std::vector<std::string>& allowed) const;

 private:
  const FlagInfo& info_of(const std::string& flag) const;
  const ProgramInfo& info_;
  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::string> positional_;
};

/// OpenMP threads that wait shall spin for a fraction of a millisecond, then sleep: libgomp's several milliseconds make a
/// step twenty times slower where other work wants the cores, and sleeping at once makes sampling half as fast where none
/// does (docs/decisions/0019-waiting-threads.md). libgomp reads its settings before main, so the program is started
/// again, in the same process, with GOMP_SPINCOUNT. Does nothing where the user has set that or OMP_WAIT_POLICY.
/// Signal handlers are gone afterwards, so it comes before them; run_program calls it too.
void limit_spinning(char** argv);

/// Runs `body`, with --help and --version answered. Every exception is turned into `error: …` and ends the process
/// with its exit code, without exit handlers. In a parallel program only rank 0 prints help and command-line errors.
/// The rank is read from the launcher's environment variables, because MPI has not started yet.
int run_program(int argc, char** argv, const ProgramInfo& info,
                const std::function<ExitCode(const CommandLine&)>& body);

/// Writes out what standard output still holds. Throws Error where it, or an earlier write, failed.
void flush_output();

/// Quotes a CSV field: inner quotes are doubled, line ends become spaces.
std::string csv_quoted(const std::string& text);

}  // namespace biqa
