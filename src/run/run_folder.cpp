// SPDX-License-Identifier: Apache-2.0
#include "run/run_folder.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "io/append_file.h"
#include "io/files.h"
#include "io/json.h"
#include "io/tensorboard.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void make_folder(const fs::path& folder) {
  std::error_code problem, ignored;
  if (fs::is_symlink(folder, ignored) && !fs::exists(folder, ignored)) {
    fail(
        "cannot write into run folder {}: it is a link to {}, which does not exist; create that folder or "
        "remove the link",
        folder.string(), fs::read_symlink(folder, ignored).string());
  }
  fs::create_directories(folder, problem);
  if (problem) {
    fail("cannot create run folder {}: {}; set train.out to a folder that can be written", folder.string(),
         problem.message());
  }
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    fail("cannot write into run folder {}: permission denied; set train.out to a folder that can be written",
         folder.string());
  }
}

// Truncates a file of JSON lines after its last whole line of a step up to `last_step`. Lines are in the order of their
// steps, so everything from the first later line on is removed. Without `evaluated`, the evaluation of that step is
// removed too. Returns the last step that is left, 0 if none.
std::int64_t keep_until(const fs::path& file, std::int64_t last_step, bool evaluated) {
  std::error_code problem;
  std::int64_t kept = 0;
  if (!fs::exists(file, problem)) return kept;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail("cannot read {}: it cannot be opened; check its permissions", file.string());
  std::uintmax_t keep = 0;
  std::int64_t number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    if (stream.eof()) break;  // no line end: torn
    const std::string where = fmt::format("{}:{}", file.string(), number);
    const nlohmann::json object = parse_json(line, where);
    const JsonFields fields(object, where);
    const std::optional<std::int64_t> step = fields.integer("step");
    if (!step) fields.missing("step");
    if (*step > last_step || (*step == last_step && !evaluated && fields.has("eval"))) break;
    kept = *step;
    keep += line.size() + 1;
  }
  stream.close();
  fs::resize_file(file, keep, problem);
  if (problem)
    fail("cannot shorten {} to its first {} bytes: {}; check its permissions", file.string(), keep,
         problem.message());
  return kept;
}

}  // namespace

bool holds_a_run(const fs::path& root) {
  std::error_code problem;
  const std::uintmax_t bytes = fs::file_size(root / "metrics.jsonl", problem);
  return !problem && bytes > 0;
}

bool is_finished(const fs::path& root) {
  std::error_code no_curves, no_config;
  const auto ended = fs::last_write_time(root / "curves.svg", no_curves);
  const auto began = fs::last_write_time(root / "config.yaml", no_config);
  return !no_curves && !no_config && ended >= began;
}

RunLock::RunLock(fs::path root) : root_(std::move(root)) {
  std::error_code ignored;
  for (fs::path folder = fs::absolute(root_, ignored).lexically_normal();
       !folder.empty() && !fs::exists(folder, ignored) && folder != folder.parent_path();
       folder = folder.parent_path())
    made_.push_back(folder);
  make_folder(root_);
  const fs::path file = root_ / ".lock";
  const bool fresh = !fs::exists(file, ignored);
  for (;;) {
    descriptor_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) {
      fail("cannot write into run folder {}: {}; set train.out to a folder that can be written",
           root_.string(), system_reason(errno));
    }
    int status = 0;
    // On network file systems a signal can interrupt the call.
    do status = ::flock(descriptor_, LOCK_EX | LOCK_NB);
    while (status != 0 && errno == EINTR);
    if (status != 0) {
      if (errno != EWOULDBLOCK) {
        LOG(WARNING) << "cannot lock " << one_line(file.string()) << ": " << system_reason(errno)
                     << "; make sure that no other job trains in this folder";
        break;
      }
      ::close(std::exchange(descriptor_, -1));
      fail(
          "cannot start a run in {}: another process is running there; wait for it, or set train.out to "
          "another folder",
          root_.string());
    }
    // The last owner may have removed the file meanwhile. Then this lock would exclude nobody.
    struct stat held {
    }, there{};
    if (::fstat(descriptor_, &held) == 0 && ::stat(file.c_str(), &there) == 0 &&
        held.st_ino == there.st_ino && held.st_dev == there.st_dev)
      break;
    ::close(std::exchange(descriptor_, -1));
    make_folder(root_);
  }
  if (fresh) made_.insert(made_.begin(), file);
}

RunLock::~RunLock() {
  if (descriptor_ < 0) return;
  std::error_code ignored;
  // If the folder contains only the lock, no run has begun.
  const bool empty = std::distance(fs::directory_iterator(root_, ignored), fs::directory_iterator()) <= 1;
  for (const fs::path& path : made_) {
    if (!empty || !fs::remove(path, ignored) || ignored) break;
  }
  ::close(descriptor_);
}

RunLock::RunLock(RunLock&& other) noexcept
    : root_(std::move(other.root_)),
      made_(std::move(other.made_)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

struct RunFolder::Files {
  RunLock lock;
  AppendFile metrics, samples;
  TensorboardWriter tensorboard;
};

RunFolder::RunFolder(RunLock lock, const std::string& config_yaml, std::optional<std::int64_t> resumed_step,
                     bool evaluated)
    : root_(lock.root()) {
  if (!resumed_step && holds_a_run(root_)) {
    fail(
        "cannot start a run in {}: it already contains a run (metrics.jsonl); set train.out to another "
        "folder, or checkpoint.resume: auto to resume that run",
        root_.string());
  }
  for (const fs::path& folder : {checkpoints(), dumps(), logs()}) make_folder(folder);
  for (const fs::path& folder : {root_, dumps()}) remove_leftovers(folder);
  if (resumed_step) {
    keep_until(metrics_file(), *resumed_step, evaluated);
    const bool missing = !fs::exists(samples_file());
    const std::int64_t last = keep_until(samples_file(), *resumed_step, true);
    if (*resumed_step > 0 && missing)
      LOG(WARNING) << one_line(samples_file().string()) << " is missing: the trajectories up to step "
                   << *resumed_step << " are lost";
    else if (last > 0 && last < *resumed_step)
      LOG(WARNING) << one_line(samples_file().string()) << " ends with step " << last
                   << ", but the checkpoint is from step " << *resumed_step
                   << ": the trajectories between them are lost";
  }
  write_file_atomically(root_ / "config.yaml", config_yaml);
  files_ =
      std::make_unique<Files>(Files{std::move(lock), AppendFile(metrics_file()), AppendFile(samples_file()),
                                    TensorboardWriter(root_ / "tensorboard")});
}

RunFolder::~RunFolder() = default;
RunFolder::RunFolder(RunFolder&&) noexcept = default;

fs::path dump_file(const fs::path& root, std::int64_t step) {
  return root / "dumps" / fmt::format("step-{:06}.h5", step);
}

void RunFolder::append(const StepMetrics& metrics) {
  files_->metrics.append(to_json_line(metrics) + '\n');
  files_->tensorboard.add(metrics.time, metrics.step, scalars_of(metrics));
}

void RunFolder::append(std::span<const EvalMetrics> figures) {
  std::string lines;
  for (const EvalMetrics& metrics : figures) lines += to_json_line(metrics) + '\n';
  if (lines.empty()) return;
  files_->metrics.append(lines);
  for (const EvalMetrics& metrics : figures) {
    files_->tensorboard.add(seconds_since_1970(), metrics.step, scalars_of(metrics));
  }
}

void RunFolder::append(const SampleRecord& sample) {
  files_->samples.append(to_json_line(sample) + '\n');
}

}  // namespace biqa
