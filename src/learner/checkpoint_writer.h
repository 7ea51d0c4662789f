// SPDX-License-Identifier: Apache-2.0
// Saves checkpoints while training continues: begin() copies this learner's part and returns, and a thread writes it.
// The learners exchange no messages for it. Each writes its shard and an announcement into one temporary folder. The
// first learner collects the announcements, writes the manifest and renames the folder. So a save also continues while
// another rank computes, or after the loss of a rank that is not a learner.
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
  /// `root`: RUN/checkpoints. `keep`: as in remove_old_checkpoints(). `token`: the same on all learners, different in
  /// each run of the program. It is part of the temporary folder's name, so leftovers of a killed run are never
  /// mistaken for the current save.
  CheckpointWriter(std::filesystem::path root, std::int64_t keep, std::string token, int learner,
                   int learners);
  ~CheckpointWriter();  ///< waits for a running save
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// For use before the first step: write small files as a checkpoint would, so that an unsuitable folder is found
  /// early. Every learner calls try_part(). After that the first learner calls try_publishing(). It also checks that
  /// a checkpoint of `bytes` fits on the disk, and that no quota or limit refuses its files. It removes the files of all
  /// learners. If one of the functions fails, it removes its
  /// files and throws Error.
  void try_part() const;
  void try_publishing(std::uint64_t bytes) const;

  /// Starts to save the state after step info.step. It first waits for a running save. An `insurance` is a save that
  /// other learners may not have begun; the next save cancels and replaces it. Does nothing if this step is already
  /// saved or being saved. If the system has no more threads, begin() writes before it returns. On the first of
  /// several learners, the save fails instead.
  void begin(const Learner& learner, const CheckpointInfo& info, bool insurance = false);

  enum class State : std::uint8_t { idle, writing, done, failed };
  /// State of the newest save. On the first learner `done` means that the checkpoint is published, on the others that
  /// their shard is written.
  State state() const;
  /// The reason why the newest save failed; empty if it did not fail.
  std::string failure() const;
  /// Returns whether all saves have ended; waits at most this long.
  bool wait(Seconds at_most) const;
  /// Makes the first learner stop waiting for the other shards, because one learner could not write its own.
  void give_up(const std::string& reason);

 private:
  /// Throws Error if the system refuses files as large as those of a checkpoint of so many bytes.
  void try_sizes(std::uint64_t bytes) const;
  struct Part;
  void write(const Part& part);
  /// The newest save has ended; `failure` is empty if it did not fail.
  void end(const std::string& failure);
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
  std::int64_t insured_step_ = -1;  ///< saved only as insurance; the next checkpoint replaces it
};

/// Saves and waits until the checkpoint is published. Collective over `learners`. If one of them cannot write, every
/// learner throws Error; then nothing is published and older checkpoints are unchanged.
void save_checkpoint(const std::filesystem::path& root, std::int64_t keep, const Learner& learner,
                     Communicator& learners, const CheckpointInfo& info);

}  // namespace biqa
