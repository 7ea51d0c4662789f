// SPDX-License-Identifier: Apache-2.0
#include "app/program.h"

#include <fmt/format.h>
#include <gflags/gflags.h>
#include <glog/logging.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <new>
#include <numeric>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "comm/launcher.h"
#include "core/failure.h"
#include "core/processors.h"
#include "policy/version.h"

namespace biqa {
namespace {

/// Number of spins of a waiting thread before it sleeps: 0.5 ms on recent Intel processors, less on others.
constexpr const char* kSpinCount = "10000";

std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

bool is_repeated(const FlagInfo& flag) {
  return flag.value.ends_with("…");
}
bool is_switch(const FlagInfo& flag) {
  return flag.value.empty();
}

/// glog's own flags (--v, --log_dir, …) are gflags; users may set them.
bool set_logging_flag(const std::string& name, const std::string& value) {
  return !gflags::SetCommandLineOption(name.c_str(), value.c_str()).empty();
}

void print_help(const ProgramInfo& info) {
  fmt::print("{} - {}\n\nusage: {} {}\n\n", info.name, info.summary, info.name, info.usage);
  for (const FlagInfo& flag : info.flags) {
    fmt::print("  --{}{}{}\n      {}{}\n", flag.name, flag.value.empty() ? "" : " ", flag.value, flag.help,
               flag.fallback.empty() ? "" : fmt::format(" (default: {})", flag.fallback));
  }
  fmt::print(
      "  --help, --version\n\nexample: {}\nexit codes: 0 done, 1 failed (file, disk, device, other process), "
      "2 wrong flags or configuration, 3 some inputs failed, 75 stopped on request, run again to resume\n",
      info.example);
}

/// Whether both paths lead to one file, which need not be there.
bool is_same_file(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code unknown;
  if (std::filesystem::equivalent(a, b, unknown)) return true;
  return std::filesystem::weakly_canonical(std::filesystem::absolute(a), unknown) ==
         std::filesystem::weakly_canonical(std::filesystem::absolute(b), unknown);
}

/// Rank and number of ranks, from the environment variables of mpirun or srun.
struct Place {
  int rank = 0, ranks = 1;
};
Place place_by_launcher(const ProgramInfo& info) {
  if (!info.parallel) return {};
  return {number_from(kRankVariables, number_from({"SLURM_PROCID"})),
          std::max(1, number_from(kSizeVariables, number_from({"SLURM_STEP_NUM_TASKS"})))};
}

/// Called on all ranks of a parallel program, which find the same error in the command line. Rank 0 prints it. The
/// others wait first, because the launcher ends all ranks as soon as one has failed.
void report_usage(const ProgramInfo& info, const std::string& message) {
  const Place place = place_by_launcher(info);
  if (place.rank > 0) {
    std::this_thread::sleep_for(std::chrono::seconds(2));
  } else if (place.ranks > 1) {
    say("error: rank 0 of {}: {}\n", place.ranks, message);
  } else {
    say("error: {}\n", message);
  }
}

}  // namespace

CommandLine::CommandLine(const ProgramInfo& info, const std::vector<std::string>& arguments) : info_(info) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") {
      positional_.insert(positional_.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                         arguments.end());
      break;
    }
    if (!argument.starts_with("--")) {
      if (argument.size() > 1 && argument[0] == '-')
        fail_usage("unknown flag {}: flags begin with --; see {} --help", argument, info.name);
      positional_.push_back(argument);
      continue;
    }
    const std::size_t equals = argument.find('=');
    std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
    std::optional<std::string> value;
    if (equals != std::string::npos) value = argument.substr(equals + 1);
    const auto find = [&](const std::string& wanted) {
      return std::find_if(info.flags.begin(), info.flags.end(),
                          [&](const FlagInfo& f) { return f.name == wanted; });
    };
    auto flag = find(name);
    bool negated = false;
    if (flag == info.flags.end() && name.starts_with("no") && find(name.substr(2)) != info.flags.end() &&
        is_switch(*find(name.substr(2)))) {
      flag = find(name.substr(2));
      name = flag->name;
      negated = true;
    }
    if (flag == info.flags.end()) {
      if (value && set_logging_flag(name, *value)) continue;
      const FlagInfo* nearest = nullptr;
      for (const FlagInfo& f : info.flags) {
        if (nearest == nullptr || edit_distance(f.name, name) < edit_distance(nearest->name, name))
          nearest = &f;
      }
      fail_usage("unknown flag --{}: nearest is --{}; see {} --help", name,
                 nearest == nullptr ? "help" : nearest->name, info.name);
    }
    if (is_switch(*flag)) {
      if (value && *value != "true" && *value != "false")
        fail_usage("flag --{}: '{}' is neither true nor false", name, *value);
      value = (value.value_or("true") == "true") != negated ? "true" : "false";
    } else if (!value) {
      if (++i == arguments.size())
        fail_usage("flag --{}: its value {} is missing; see {} --help", name, flag->value, info.name);
      value = arguments[i];
    }
    auto& values = values_[name];
    if (!values.empty() && !is_repeated(*flag))
      fail_usage("flag --{} is given twice: '{}' and '{}'; give it once", name, values.front(), *value);
    values.push_back(*value);
  }
}

const FlagInfo& CommandLine::info_of(const std::string& flag) const {
  const auto found =
      std::find_if(info_.flags.begin(), info_.flags.end(), [&](const FlagInfo& f) { return f.name == flag; });
  CHECK(found != info_.flags.end()) << "no flag " << flag;
  return *found;
}

bool CommandLine::on(const std::string& flag) const {
  return text(flag) == "true";
}

std::string CommandLine::text(const std::string& flag) const {
  const auto found = values_.find(flag);
  return found != values_.end() ? found->second.front() : info_of(flag).fallback;
}

std::vector<std::string> CommandLine::texts(const std::string& flag) const {
  const auto found = values_.find(flag);
  return found != values_.end() ? found->second : std::vector<std::string>{};
}

std::int64_t CommandLine::integer(const std::string& flag, std::int64_t least, std::int64_t most) const {
  const std::string value = text(flag);
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || number < least || number > most) {
    fail_usage("flag --{} is '{}'; it must be a whole number from {} to {}; see {} --help", flag, value,
               least, most, info_.name);
  }
  return number;
}

double CommandLine::number(const std::string& flag, double least, double most) const {
  const std::string value = text(flag);
  double number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || !(number >= least && number <= most)) {
    fail_usage("flag --{} is '{}'; it must be a number from {} to {}; see {} --help", flag, value, least,
               most, info_.name);
  }
  return number;
}

std::string CommandLine::choice(const std::string& flag, const std::vector<std::string>& allowed) const {
  std::string value = text(flag);
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    fail_usage("flag --{} is '{}'; it must be one of {}", flag, value, fmt::join(allowed, ", "));
  }
  return value;
}

void refuse_overwriting(const CommandLine& line, const std::vector<std::string>& output_flags,
                        const std::vector<std::filesystem::path>& inputs) {
  std::vector<std::string> given;
  for (const std::string& flag : output_flags) {
    if (!line.has(flag)) continue;
    const std::string file = line.text(flag);
    for (const std::filesystem::path& input : inputs) {
      if (is_same_file(file, input))
        fail_usage("flag --{} is '{}': this would replace the input {}; name another file", flag, file,
                   input.string());
    }
    for (const std::string& other : given) {
      if (is_same_file(file, line.text(other)))
        fail_usage("flags --{} and --{} both name the file {}; name two files", other, flag, file);
    }
    given.push_back(flag);
  }
}

void flush_output() {
  // An earlier flush may have failed unseen.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    fail("cannot write standard output: {}; free disk space, or check the program that reads the output",
         std::generic_category().message(errno != 0 ? errno : EIO));
  }
}

void limit_spinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  // Started as `ld-linux.so PROGRAM …`, the process's file is the loader, which would get the program's flags.
  if (::getauxval(AT_BASE) == 0) return;
  // Uses the file's own name, not that of a link, because tools that list processes show this name.
  std::error_code failure;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", failure);
  if (failure || ::setenv("GOMP_SPINCOUNT", kSpinCount, 1) != 0) return;
  // libgomp has already reported a wrong number of threads and ignored it. It must not report it again.
  for (const char* name : {"OMP_NUM_THREADS", "OMP_THREAD_LIMIT"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && !first_of_thread_list(value)) ::unsetenv(name);
  }
  ::execv(program.c_str(), argv);
  // If execv fails, the threads spin longer. Nothing else changes.
}

int run_program(int argc, char** argv, const ProgramInfo& info,
                const std::function<ExitCode(const CommandLine&)>& body) {
  limit_spinning(argv);
  FLAGS_logtostderr = true;
  FLAGS_minloglevel = google::GLOG_INFO;
  google::InitGoogleLogging(argv[0]);
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto asks = [&](const char* flag) {
    const auto end = std::find(arguments.begin(), arguments.end(), "--");
    return std::find(arguments.begin(), end, flag) != end;
  };
  std::string message;
  ExitCode code = ExitCode::world;
  try {
    code = ExitCode::done;
    const bool speaks = place_by_launcher(info).rank == 0;
    if (asks("--help")) {
      if (speaks) print_help(info);
    } else if (asks("--version")) {
      if (speaks) fmt::print("{}\n", version_text());
    } else {
      code = body(CommandLine(info, arguments));
    }
    flush_output();
    return static_cast<int>(code);
  } catch (const Error& error) {
    message = error.what();
    code = error.code();
  } catch (const std::bad_alloc&) {
    message =
        "cannot allocate memory: the machine has no free memory; use a smaller batch, image size or cache";
    code = ExitCode::world;
  } catch (const std::system_error& error) {
    message = fmt::format("a system call failed: {}; check paths, permissions and free space", error.what());
    code = ExitCode::world;
  } catch (const std::exception& error) {
    message = fmt::format("unexpected failure in {}: {}; please report it with the command line", info.name,
                          error.what());
    code = ExitCode::world;
  }
  if (code == ExitCode::usage && !has_failure_handler())
    report_usage(info, message);
  else
    report_failure(message);
  // Skips the exit handlers of libraries. After a failure they may crash, as HDF5's does for a file that it could not
  // write.
  std::fflush(stderr);
  std::_Exit(static_cast<int>(code));
}

}  // namespace biqa
