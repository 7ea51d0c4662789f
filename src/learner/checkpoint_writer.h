// SPDX-License-Identifier: Apache-2.0
// Saves checkpoints beside the training: begin() copies this learner's part and returns, a thread writes it. Learners
// don't talk to each other for it. Each writes its shard into one temporary folder and announces it there; the first
// learner collects the announcements, writes the manifest and renames the folder. So a save works on while a peer
// computes, and also when one is lost that is no learner.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "learner/checkpoint_store.h"
#include "learner/learner.h"

namespace biqa {

class CheckpointWriter {
 public:
  /// `root`: RUN/checkpoints, `keep` as in CheckpointStore. `token`: the same for all learners and another in each run
  /// of the program; it names the temporary folder, so that leftovers of a killed run are never taken for new.
  CheckpointWriter(std::filesystem::path root, std::int64_t keep, std::string token, int learner,
                   int learners);
  ~CheckpointWriter();  ///< waits for the save under way
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Before the first step: writes small files the way a checkpoint is written, so that a folder which cannot hold one is
  /// found now and not behind the last step. Every learner calls try_part(); when all have, the first one calls
  /// try_publishing(), which also asks whether `bytes` fit. Nothing stays. Throw Error.
  void try_part() const;
  void try_publishing(std::uint64_t bytes) const;

  /// Starts to save the state after step info.step. A save still under way is waited for, or dropped if it was an
  /// `insurance`: one that other learners may not have begun, and that the next one replaces. One of the same step is left at
  /// that unless it failed.
  void begin(const Learner& learner, const CheckpointInfo& info, bool insurance = false);

  enum class State : std::uint8_t { idle, writing, done, failed };
  /// Of the newest save; the first learner's is `done` when the checkpoint is published, the others' when their shard
  /// is written.
  State state() const;
  /// Why the newest save failed; empty unless it did.
  std::string failure() const;
  /// Waits at most so long; true when no save is under way any more.
  bool wait(Seconds at_most) const;
  /// The first learner stops waiting for shards of the others: one of them could not write its own.
  void give_up(const std::string& reason);

 private:
  struct Part;
  void write(const Part& part);
  void write_shard(const Part& part, const std::filesystem::path& folder) const;
  void publish_all(const Part& part, const std::filesystem::path& folder);
  std::filesystem::path temporary_folder(std::int64_t step) const;
  std::filesystem::path make_temporary_folder(std::int64_t step) const;

  const std::filesystem::path root_;
  const std::int64_t keep_;
  const std::string token_;
  const int learner_, learners_;
  std::thread thread_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  State state_ = State::idle;
  std::string failure_, give_up_;
  std::int64_t newest_step_ = -1;
  bool insurance_ = false;
  std::int64_t insured_step_ = -1;  ///< saved as insurance alone: the next checkpoint takes its place
};

/// Saves and waits until the checkpoint is published; collective over `learners`. Throws Error on every learner when
/// one of them could not write; then nothing was published and older checkpoints are untouched.
void save_checkpoint(const std::filesystem::path& root, std::int64_t keep, const Learner& learner,
                     Communicator& learners, const CheckpointInfo& info);

}  // namespace biqa
