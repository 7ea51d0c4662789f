// SPDX-License-Identifier: Apache-2.0
#include "learner/checkpoint_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <glog/logging.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "core/bytes_text.h"
#include "core/error.h"
#include "io/files.h"
#include "io/hdf5.h"
#include "io/json.h"
#include "learner/messages.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// Time that the first learner waits for the next shard.
constexpr Seconds kShardPatience{300};
constexpr Seconds kLook{0.02};
/// Time until a file that another node has written must be visible.
constexpr Seconds kTrialPatience{60};
constexpr std::size_t kAnnouncementLimit = 1 << 16;

fs::path announcement(const fs::path& folder, int learner) {
  return folder / fmt::format("written-{:05}.json", learner);
}

/// Makes a file of this size without writing it. Returns the error number if a quota or a limit refuses that, and 0
/// where the file system cannot tell.
int reserve(const fs::path& file, std::uint64_t bytes) {
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) return errno;
  int error = 0;
  do {
    error = ::fallocate(descriptor, 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  } while (error == EINTR);
  ::close(descriptor);
  return error == EFBIG || error == EDQUOT || error == ENOSPC ? error : 0;
}

/// A learner's description of its shard.
nlohmann::json describe_shard(const fs::path& file, std::int64_t step, std::int64_t updates) {
  return {
      {"bytes", fs::file_size(file)}, {"xxh3", digest_of_file(file)}, {"step", step}, {"updates", updates}};
}

}  // namespace

struct CheckpointWriter::Part {
  CheckpointInfo info;
  Lora adapter;  // whole
  std::size_t begin = 0, end = 0;
  std::vector<float> m, v;
  std::int64_t updates = 0;
  std::int64_t replaces = -1;  // step of the insurance that this save replaces
};

CheckpointWriter::CheckpointWriter(fs::path root, std::int64_t keep, std::string token, int learner,
                                   int learners)
    : root_(std::move(root)), keep_(keep), token_(std::move(token)), learner_(learner), learners_(learners) {}

CheckpointWriter::~CheckpointWriter() {
  if (thread_.joinable()) thread_.join();
}

CheckpointWriter::State CheckpointWriter::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

std::string CheckpointWriter::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

bool CheckpointWriter::wait(Seconds at_most) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, at_most, [this] { return state_ != State::writing; });
}

void CheckpointWriter::give_up(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    give_up_ = reason;
  }
  changed_.notify_all();
}

fs::path CheckpointWriter::temporary_folder(std::int64_t step) const {
  return root_ / fmt::format(".{}.{}{}", checkpoint_name(step), token_, kPartialMark);
}

fs::path CheckpointWriter::make_temporary_folder(std::int64_t step) const {
  fs::path folder = temporary_folder(step);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    fail("cannot create checkpoint folder {}: {}; free some space or correct the permissions",
         folder.string(), error.message());
  return folder;
}

void CheckpointWriter::try_part() const {
  const fs::path folder = make_temporary_folder(0);
  try {
    Hdf5Writer file(folder / shard_name(learner_, learners_));
    file.dataset("m", std::vector<float>{0}, {1});
    file.close();
    write_file_atomically(announcement(folder, learner_), "{}");
  } catch (const Error&) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    throw;
  }
}

void CheckpointWriter::try_publishing(std::uint64_t bytes) const {
  const fs::path folder = temporary_folder(0), target = root_ / fmt::format(".{}{}", token_, kPartialMark);
  std::error_code ignored;
  const auto start = Clock::now();
  for (int learner = 0; learner < learners_; ++learner) {
    while (!fs::exists(announcement(folder, learner), ignored)) {
      if (Clock::now() - start > kTrialPatience) {
        fs::remove_all(folder, ignored);
        fail(
            "cannot save checkpoints in {}: the first learner does not see the files of learner {}; set "
            "train.out to a folder that all nodes share",
            root_.string(), learner);
      }
      std::this_thread::sleep_for(kLook);
    }
  }
  publish(folder, target);
  fs::remove_all(target, ignored);
  const fs::space_info space = fs::space(root_, ignored);
  // Some file systems do not report their size.
  if (!ignored && space.capacity > 0 && space.available < bytes) {
    fail(
        "cannot save checkpoints in {}: a checkpoint needs {}, but only {} are free; free some space "
        "or set train.out to another folder",
        root_.string(), bytes_text(bytes), bytes_text(space.available));
  }
  try_sizes(bytes);
}

void CheckpointWriter::try_sizes(std::uint64_t bytes) const {
  // The adapter is a quarter, and the learners share the rest (checkpoint-format.md).
  std::vector<std::uint64_t> sizes(static_cast<std::size_t>(learners_),
                                   bytes / 4 * 3 / static_cast<std::uint64_t>(learners_));
  sizes.push_back(bytes / 4);
  const fs::path folder = make_temporary_folder(0);
  int error = 0;
  std::uint64_t refused = 0;
  for (std::size_t i = 0; i < sizes.size() && error == 0; ++i) {
    error = reserve(folder / fmt::format("{}", i), sizes[i]);
    refused = sizes[i];
  }
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  if (error == 0) return;
  fail(
      "cannot save checkpoints in {}: the system refuses a file of {}: {}; raise the quota or the limit "
      "(ulimit -f), or set train.out to another folder",
      root_.string(), bytes_text(refused), std::generic_category().message(error));
}

void CheckpointWriter::begin(const Learner& learner, const CheckpointInfo& info, bool insurance) {
  if (info.step == newest_step_ && state() != State::failed) {
    if (!insurance) insured_step_ = -1;  // this save is now a regular one
    return;
  }
  if (insurance_) give_up("a newer save is due");
  if (thread_.joinable()) thread_.join();
  newest_step_ = info.step;
  insurance_ = insurance;
  const std::int64_t replaces = std::exchange(insured_step_, insurance ? info.step : -1);
  const Learner::Shard shard = learner.shard();
  const auto part = std::make_shared<const Part>(Part{info,
                                                      learner.adapter(),
                                                      shard.begin,
                                                      shard.end,
                                                      {shard.m.begin(), shard.m.end()},
                                                      {shard.v.begin(), shard.v.end()},
                                                      learner.updates(),
                                                      replaces});
  {
    const std::lock_guard lock(mutex_);
    state_ = State::writing;
    failure_.clear();
    give_up_.clear();
  }
  try {
    thread_ = std::thread([this, part] { write(*part); });
  } catch (const std::exception& error) {
    // The first learner would wait for the others' shards here, and nothing could end its wait.
    if (learner_ == 0 && learners_ > 1) {
      end(fmt::format(
          "cannot save checkpoint {}: the system has no more threads ({}); raise the limit of the job",
          checkpoint_name(info.step), error.what()));
      return;
    }
    LOG(WARNING) << "the system has no more threads (" << error.what() << "), so training waits until "
                 << checkpoint_name(info.step) << " is written";
    write(*part);
  }
}

void CheckpointWriter::end(const std::string& failure) {
  {
    const std::lock_guard lock(mutex_);
    state_ = failure.empty() ? State::done : State::failed;
    failure_ = failure;
  }
  changed_.notify_all();
}

void CheckpointWriter::write(const Part& part) {
  const fs::path folder = temporary_folder(part.info.step);
  std::string failure;
  try {
    make_temporary_folder(part.info.step);
    write_shard(part, folder);
    if (learner_ == 0) publish_all(part, folder);
  } catch (const std::exception& error) {
    failure = error.what();
    std::error_code ignored;
    if (learner_ == 0) fs::remove_all(folder, ignored);
  }
  end(failure);
}

void CheckpointWriter::write_shard(const Part& part, const fs::path& folder) const {
  const fs::path file = folder / shard_name(learner_, learners_);
  const std::span<const float> values(part.adapter.values);
  write_shard_h5(
      file,
      {part.begin, part.end, values.subspan(part.begin, part.end - part.begin), part.m, part.v, part.updates},
      *part.adapter.layout);
  if (learner_ == 0) {
    write_adapter_h5(folder / "adapter.h5", part.adapter, part.info);
  } else {
    write_file_atomically(announcement(folder, learner_),
                          describe_shard(file, part.info.step, part.updates).dump());
  }
}

void CheckpointWriter::publish_all(const Part& part, const fs::path& folder) {
  std::vector<CheckpointManifest::File> files{describe_checkpoint_file(folder / "adapter.h5")};
  auto last = Clock::now();
  for (int learner = 0; learner < learners_; ++learner) {
    const std::string name = shard_name(learner, learners_);
    if (learner == 0) {
      files.push_back(describe_checkpoint_file(folder / name));
      continue;
    }
    const fs::path told = announcement(folder, learner);
    while (!fs::exists(told)) {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kLook, [this] { return !give_up_.empty(); });
      if (!give_up_.empty()) fail("cannot save checkpoint {}: {}", checkpoint_name(part.info.step), give_up_);
      if (Clock::now() - last > kShardPatience)
        fail(
            "cannot save checkpoint {}: the shard of learner {} did not arrive within {:.0f} s; look for its "
            "error, or check that {} is the same folder on every node",
            checkpoint_name(part.info.step), learner, kShardPatience.count(), root_.string());
    }
    last = Clock::now();
    const nlohmann::json shard = parse_json(read_file(told, kAnnouncementLimit), told.string());
    if (shard.at("step") != part.info.step || shard.at("updates") != part.updates)
      fail(
          "cannot save checkpoint {}: learner {} is at step {} with {} updates, but the first learner is at "
          "step {} with {} updates",
          checkpoint_name(part.info.step), learner, shard.at("step").dump(), shard.at("updates").dump(),
          part.info.step, part.updates);
    files.push_back({name, shard.at("bytes"), shard.at("xxh3")});
    fs::remove(told);
  }
  publish_checkpoint(root_, folder, {part.info, files});
  if (const fs::path insured = root_ / checkpoint_name(part.replaces);
      part.replaces > 0 && best_checkpoint(root_) != part.replaces && fs::exists(insured))
    remove_checkpoint(insured);
  remove_old_checkpoints(root_, keep_);
}

void save_checkpoint(const fs::path& root, std::int64_t keep, const Learner& learner, Communicator& learners,
                     const CheckpointInfo& info) {
  CheckpointWriter writer(root, keep, share_token(learners), learners.rank(), learners.size());
  writer.begin(learner, info);
  const auto failed = [&] { return writer.state() == CheckpointWriter::State::failed; };
  // The other learners wait for their shards first. If one has failed, the first learner need not wait for it.
  if (learners.rank() != 0) writer.wait(kShardPatience);
  const bool others = learners.all_and(learners.rank() == 0 || !failed());
  if (!others && learners.rank() == 0)
    writer.give_up("another learner could not write its shard; see its message");
  if (learners.rank() == 0) writer.wait(kShardPatience);
  const bool all = learners.all_and(!failed());
  if (failed()) throw Error(writer.failure());
  if (!all)
    fail("cannot save checkpoint {}: another learner failed; see its message", checkpoint_name(info.step));
}

}  // namespace biqa
