// SPDX-License-Identifier: Apache-2.0
// The run folder: config.yaml, metrics.jsonl, samples.jsonl, checkpoints/, dumps/, tensorboard/, logs/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "reward/table.h"

namespace biqa {

/// A figure that was not measured: written as null, read back as NaN.
inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

/// One training step: a line of metrics.jsonl under these names and in this order.
struct StepMetrics {
  std::int64_t step = 0;     ///< from 1
  std::int64_t version = 0;  ///< of the adapter the step made
  double epoch = 0;          ///< passes over the training set, with fraction
  double time = 0;           ///< seconds since 1970 at the step's end
  // Seconds of wall time.
  double step_seconds = 0, rollout_seconds = 0, stage2_seconds = 0, reward_seconds = 0, learn_seconds = 0,
         sync_seconds = 0;
  std::int64_t images = 0, trajectories = 0, generated_tokens = 0, stage2_tokens = 0, trained_tokens = 0;
  // Over the step's trajectories: weighted sum, then each column before its weight; std with n - 1.
  double reward_mean = kNotMeasured, reward_std = kNotMeasured;
  // One per row of the reward table: `reward_NAME_mean` and `reward_NAME_std`.
  std::vector<double> reward_means = std::vector<double>(rewards().size(), kNotMeasured),
                      reward_stds = std::vector<double>(rewards().size(), kNotMeasured);
  // Shares on 0..1.
  double parse_rate = kNotMeasured, stage2_parse_rate = kNotMeasured, zero_variance_fraction = kNotMeasured,
         leak_rate = kNotMeasured, truncated_fraction = kNotMeasured;
  // Means: completion tokens; words of the parts.
  double length_mean = kNotMeasured, caption_words = kNotMeasured, reasoning_words = kNotMeasured;
  double loss = kNotMeasured, kl = kNotMeasured, ratio_max_deviation = kNotMeasured,
         actor_learner_logp_gap = kNotMeasured, clip_fraction = kNotMeasured, entropy = kNotMeasured,
         grad_norm = kNotMeasured, lr = kNotMeasured;
  std::int64_t policy_lag_max = 0;
  std::int64_t traffic_bytes = 0;  ///< sent by all ranks together, to themselves too; no evaluation
};

/// One evaluated set under one condition: a line of metrics.jsonl.
struct EvalMetrics {
  std::int64_t step = 0;  ///< 0: before the first step
  std::string set;        ///< written as "eval"
  std::string condition;  ///< "image" or "caption"
  std::string decoding;   ///< "greedy" or "sampled"
  std::int64_t n = 0, parse_failures = 0, out_of_scale = 0;
  double plcc = kNotMeasured, srcc = kNotMeasured, krcc = kNotMeasured, rmse = kNotMeasured,
         plcc_in_scale = kNotMeasured, srcc_in_scale = kNotMeasured, rmse_in_scale = kNotMeasured,
         rouge1_p = kNotMeasured, rouge1_r = kNotMeasured, rouge1_f = kNotMeasured;
};

/// One trajectory: a line of samples.jsonl.
struct SampleRecord {
  std::int64_t step = 0;
  std::string id;           ///< of the sample
  std::int64_t member = 0;  ///< of its group, from 0
  std::string prompt, text, caption, reasoning;
  std::optional<double> rating;
  std::string stage2_text;
  std::optional<double> stage2_rating;
  double score = 0;                       ///< human score
  std::map<std::string, double> rewards;  ///< by the names of the reward table, before weights
  double advantage = 0;
};

/// One JSON line without line end: names in the order of the struct, floats round-trip, NaN and infinities as
/// null, bytes that are no UTF-8 replaced.
std::string to_json_line(const StepMetrics& metrics);
std::string to_json_line(const EvalMetrics& metrics);
std::string to_json_line(const SampleRecord& sample);

/// What metrics.jsonl holds.
struct MetricsFile {
  std::vector<StepMetrics> steps;
  std::vector<EvalMetrics> evaluations;
};
/// Reads metrics.jsonl; unknown keys are ignored, missing ones left as they start. Throws Error with file:line.
MetricsFile read_metrics(const std::filesystem::path& file);

/// There are steps in this folder's metrics.jsonl.
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
  /// `resumed_step`: nothing = a fresh run, refused where the folder already holds steps; S = go on after
  /// step S: lines of later steps (they will be run again) and a torn last line are dropped, and without `evaluated`
  /// the figures of S, which are made again. Throws Error when the folder cannot be made, is not writable, holds another run or is in use by another process.
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
  /// dumps/step-000010.h5
  std::filesystem::path dump_file(std::int64_t step) const;

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
