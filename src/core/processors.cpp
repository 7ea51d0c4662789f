// SPDX-License-Identifier: Apache-2.0
#include "core/processors.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <numeric>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr double kNoLimit = std::numeric_limits<double>::infinity();
constexpr int kMostThreads = 4096;

/// A set of processors larger than cpu_set_t, which ends at 1024.
class ProcessorSet {
 public:
  explicit ProcessorSet(int count)
      : count_(count), bytes_(CPU_ALLOC_SIZE(count)), bits_(CPU_ALLOC(static_cast<std::size_t>(count))) {}
  ~ProcessorSet() { CPU_FREE(bits_); }
  ProcessorSet(const ProcessorSet&) = delete;
  ProcessorSet& operator=(const ProcessorSet&) = delete;

  bool ask(pid_t process) { return bits_ != nullptr && ::sched_getaffinity(process, bytes_, bits_) == 0; }
  std::vector<int> numbers() const {
    std::vector<int> found;
    for (int i = 0; i < count_; ++i) {
      if (CPU_ISSET_S(static_cast<std::size_t>(i), bytes_, bits_)) found.push_back(i);
    }
    return found;
  }

 private:
  int count_;
  std::size_t bytes_;
  cpu_set_t* bits_;
};

std::vector<std::string> split(const std::string& text, char between) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, between);) parts.push_back(part);
  return parts;
}

/// Decodes blanks, tabs and backslashes, which mountinfo writes like "\040".
std::string without_escapes(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    int code = 0;
    const bool escaped =
        text[i] == '\\' && i + 3 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 4, code, 8).ptr == text.data() + i + 4;
    plain += escaped ? static_cast<char>(code) : text[i];
    if (escaped) i += 3;
  }
  return plain;
}

/// The place of this process in a hierarchy of control groups: a mount point and the path below it.
struct Group {
  fs::path mount, below;
  bool unified = false;  ///< version 2
};

/// The path of the group that limits processors: "0::/path" in version 2, "4:cpu,cpuacct:/path" in version 1.
std::optional<std::string> group_path(const fs::path& root, bool unified) {
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = split(line.substr(first + 1, second - first - 1), ',');
    const bool has_cpu = std::find(controllers.begin(), controllers.end(), "cpu") != controllers.end();
    if (unified ? controllers.empty() : has_cpu) return line.substr(second + 1);
  }
  return std::nullopt;
}

/// The path of `group` below the mounted part of the hierarchy. Empty if the group is outside of it, as in containers
/// that see only their own part.
fs::path below_mount(const std::string& group, const std::string& mounted) {
  if (group.find("..") != std::string::npos) return {};
  if (mounted == "/") return fs::path(group).relative_path();
  if (group.starts_with(mounted + "/")) return group.substr(mounted.size() + 1);
  return {};
}

std::vector<Group> groups_of(const fs::path& root) {
  std::vector<Group> groups;
  std::ifstream mounts(root / "proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const std::vector<std::string> words = split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    constexpr std::ptrdiff_t kRoot = 3, kPoint = 4;
    if (dash - words.begin() <= kPoint || words.end() - dash < 4) continue;
    const std::string& type = dash[1];
    const auto options = split(dash[3], ',');
    const bool unified = type == "cgroup2";
    const bool rations =
        type == "cgroup" && std::find(options.begin(), options.end(), "cpu") != options.end();
    if (!unified && !rations) continue;
    const auto path = group_path(root, unified);
    if (!path) continue;
    groups.push_back({root / fs::path(without_escapes(words[kPoint])).relative_path(),
                      below_mount(*path, without_escapes(words[kRoot])), unified});
  }
  return groups;
}

/// The limit of one group alone, without its parents.
double limit_of(const fs::path& group, bool unified) {
  std::string quota;
  double period = 0;
  if (unified) {
    std::ifstream(group / "cpu.max") >> quota >> period;
  } else {
    std::ifstream(group / "cpu.cfs_quota_us") >> quota;
    std::ifstream(group / "cpu.cfs_period_us") >> period;
  }
  double granted = 0;
  const auto result = std::from_chars(quota.data(), quota.data() + quota.size(), granted);
  const bool limited = result.ec == std::errc() && granted > 0 && period > 0;  // "max" and -1 are no limit
  return limited ? granted / period : kNoLimit;
}

}  // namespace

std::vector<int> allowed_processors(pid_t process) {
  constexpr int kSmallest = 1024, kLargest = 1 << 20;
  for (int count = kSmallest; count <= kLargest; count *= 2) {
    ProcessorSet set(count);
    if (set.ask(process)) return set.numbers();
    if (errno != EINVAL) break;  // EINVAL: the machine may have more
  }
  return {};
}

std::vector<int> allowed_or_all_processors() {
  std::vector<int> processors = allowed_processors();
  if (!processors.empty()) return processors;
  processors.resize(std::thread::hardware_concurrency());
  std::iota(processors.begin(), processors.end(), 0);
  return processors;
}

double granted_processors(const fs::path& root) {
  double least = kNoLimit;
  for (const Group& group : groups_of(root)) {
    fs::path below = group.below;
    least = std::min(least, limit_of(group.mount / below, group.unified));
    while (!below.empty()) {
      below = below.parent_path();
      least = std::min(least, limit_of(group.mount / below, group.unified));
    }
  }
  return least;
}

int usable_processors() {
  const auto count = static_cast<double>(allowed_or_all_processors().size());
  return std::max(1, static_cast<int>(std::min(count, granted_processors())));
}

std::optional<int> first_of_thread_list(std::string_view text) {
  constexpr std::string_view kBlank = " \t\n\v\f\r";
  std::optional<int> first;
  while (true) {
    const std::size_t comma = std::min(text.find(','), text.size());
    std::string_view entry = text.substr(0, comma);
    entry.remove_prefix(std::min(entry.find_first_not_of(kBlank), entry.size()));
    if (entry.starts_with('+')) entry.remove_prefix(1);
    unsigned long value = 0;  // NOLINT(google-runtime-int): as libgomp reads it
    const char* const end = entry.data() + entry.size();
    const auto [stop, problem] = std::from_chars(entry.data(), end, value);
    const std::string_view rest(stop, static_cast<std::size_t>(end - stop));
    if (problem != std::errc() || value == 0 || rest.find_first_not_of(kBlank) != std::string_view::npos)
      return std::nullopt;
    if (!first)
      first = static_cast<int>(std::min<unsigned long>(value, kMostThreads));  // NOLINT(google-runtime-int)
    if (comma == text.size()) return first;
    text.remove_prefix(comma + 1);
  }
}

int threads_for(int processors, int configured) {
  int threads = configured > 0 ? configured : processors;
  const char* asked = std::getenv("OMP_NUM_THREADS");
  if (configured <= 0 && asked != nullptr) threads = first_of_thread_list(asked).value_or(threads);
  const char* limit = std::getenv("OMP_THREAD_LIMIT");
  if (limit != nullptr && std::string_view(limit).find(',') == std::string_view::npos)
    threads = std::min(threads, first_of_thread_list(limit).value_or(threads));
  return std::max(1, threads);
}

}  // namespace biqa
