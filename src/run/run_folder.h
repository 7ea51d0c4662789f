// SPDX-License-Identifier: Apache-2.0
// The run folder: config.yaml, metrics.jsonl, samples.jsonl, checkpoints/, dumps/, tensorboard/, logs/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "run/records.h"

namespace biqa {

/// dumps/step-000010.h5 of a run folder.
std::filesystem::path dump_file(const std::filesystem::path& root, std::int64_t step);

/// True if this folder's metrics.jsonl contains at least one step.
bool holds_a_run(const std::filesystem::path& root);

/// A run folder is this process's alone as long as this lives; the system lets go of it when the process ends, however it
/// ends. What a run goes on from is chosen and read under it: another job may still be writing there before.
class RunLock {
 public:
  /// Creates the folder where it isn't there. Throws Error when it cannot be made, is not writable or is in use by another
  /// process.
  explicit RunLock(std::filesystem::path root);
  /// Removes what it made, if nothing else has come into it.
  ~RunLock();
  RunLock(RunLock&& other) noexcept;
  RunLock& operator=(RunLock&&) = delete;
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  const std::filesystem::path& root() const { return root_; }

 private:
  std::filesystem::path root_;
  std::vector<std::filesystem::path> made_;  ///< the lock's file and folders, innermost first
  int descriptor_ = -1;
};

/// An open run folder; belongs to one process (rank 0).
class RunFolder {
 public:
  /// Creates the folder, its subfolders and `config.yaml` (text as given) and opens the files for appending.
  /// `resumed_step`: nullopt starts a new run and throws if the folder already holds steps. With S the run continues
  /// after step S: lines of later steps and an incomplete last line are deleted. If `evaluated` is false, the
  /// evaluation of step S is deleted too, because it will be repeated. Throws Error when the folder cannot be made,
  /// is not writable, holds another run or is in use by another process.
  RunFolder(std::filesystem::path root, const std::string& config_yaml,
            std::optional<std::int64_t> resumed_step, bool evaluated = true)
      : RunFolder(RunLock(std::move(root)), config_yaml, resumed_step, evaluated) {}
  RunFolder(RunLock lock, const std::string& config_yaml, std::optional<std::int64_t> resumed_step,
            bool evaluated = true);
  ~RunFolder();
  RunFolder(RunFolder&&) noexcept;
  RunFolder& operator=(RunFolder&&) = delete;
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path checkpoints() const { return root_ / "checkpoints"; }
  std::filesystem::path dumps() const { return root_ / "dumps"; }
  std::filesystem::path logs() const { return root_ / "logs"; }
  std::filesystem::path metrics_file() const { return root_ / "metrics.jsonl"; }
  std::filesystem::path samples_file() const { return root_ / "samples.jsonl"; }

  /// Appends one whole line (and TensorBoard scalars for metrics) and hands it to the system at once. Throws
  /// Error when the disk is full; the file then ends with the last whole line.
  void append(const StepMetrics& metrics);
  /// All figures of an evaluation as one record: they are there together or not at all.
  void append(std::span<const EvalMetrics> figures);
  void append(const SampleRecord& sample);

 private:
  struct Files;
  std::filesystem::path root_;
  std::unique_ptr<Files> files_;
};

}  // namespace biqa
