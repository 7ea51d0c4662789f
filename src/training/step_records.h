// SPDX-License-Identifier: Apache-2.0
// Writes and prints the records of each step on the first learner.
#pragma once

#include <cstdint>
#include <span>

#include "config/config.h"
#include "run/progress.h"
#include "run/run_folder.h"
#include "training/learner_role.h"
#include "training/messages.h"
#include "training/reward_watch.h"

namespace biqa {

/// Order of calls for a step: learned, add_report for each rank, end_step, record. Before an urgent save, record may be
/// called earlier. Then the line has the times known so far, and the later call writes nothing.
class StepRecords {
 public:
  /// Borrows config and data. `step`: the last step whose line is in the folder. `gpu_peak`: operations per second of
  /// all GPUs together; 0: no MFU.
  StepRecords(const Config& config, const TrainingData& data, RunFolder folder, std::int64_t step,
              double gpu_peak = 0);

  const RunFolder& folder() const { return folder_; }

  /// Begins the line of this step and writes its trajectories. `version`: of the adapter before this step's update.
  void learned(const LearnedStep& learned, std::int64_t version);
  void add_report(const StepReport& report);
  void end_step(double sync_seconds, double step_seconds);
  /// Writes the line of `step`, but only once. Throws Error if there is none.
  void record(std::int64_t step);
  /// Prints warnings about the step's metrics, and the progress.
  void comment(bool on_policy);

  void append(std::span<const EvalMetrics> figures) { folder_.append(figures); }
  void clear_progress() { progress_.clear(); }
  void finish_progress() { progress_.finish(); }
  /// Prints the mean traffic of `steps` steps, if there are several ranks.
  void print_traffic(std::int64_t steps, int ranks) const;

 private:
  void write_samples(const LearnedStep& learned);

  const Config& config_;
  const TrainingData& data_;
  RunFolder folder_;
  Progress progress_;
  StepMetrics metrics_;
  RewardWatch reward_watch_;
  double gpu_peak_;
  double step_flop_ = 0;
  std::int64_t recorded_step_;
  SentBytes traffic_{};  // of all steps
};

}  // namespace biqa
