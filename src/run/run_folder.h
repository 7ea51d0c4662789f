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

/// True if the run in this folder has written its results since it was last started: curves.svg, which is written last, is
/// not older than config.yaml, which is written first.
bool is_finished(const std::filesystem::path& root);

/// While this object exists, no other process can use the run folder. The system releases the lock whenever the process
/// ends. Take it before choosing and reading the checkpoint to resume from, because another job may still be writing
/// there.
class RunLock {
 public:
  /// Creates a missing folder. Throws Error if it cannot be created, is not writable or is in use by another process.
  explicit RunLock(std::filesystem::path root);
  /// Removes the lock's file and the folders that it created, unless a run has begun in them.
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

/// An open run folder. It belongs to one process (the first learner).
class RunFolder {
 public:
  /// Creates the folder, its subfolders and `config.yaml` with the given text, and opens the files for appending.
  /// `resumed_step`: nullopt starts a new run and throws if the folder already contains steps. With S the run continues
  /// after step S: lines of later steps and an incomplete last line are deleted. If `evaluated` is false, the
  /// evaluation of step S is deleted too, because it will be repeated. Throws Error if the folder cannot be created, is
  /// not writable, contains another run or is in use by another process.
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

  /// Appends one whole line, and for metrics TensorBoard scalars, and passes them to the system at once. Throws Error
  /// if the disk is full. The file then ends with the last whole line.
  void append(const StepMetrics& metrics);
  /// Appends all metrics of an evaluation as one record: either all or none are in the file.
  void append(std::span<const EvalMetrics> figures);
  void append(const SampleRecord& sample);

 private:
  struct Files;
  std::filesystem::path root_;
  std::unique_ptr<Files> files_;
};

}  // namespace biqa
