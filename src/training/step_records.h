// SPDX-License-Identifier: Apache-2.0
// What the first learner writes and prints of each step.
#pragma once

#include <cstdint>
#include <span>

#include "config/config.h"
#include "run/progress.h"
#include "run/run_folder.h"
#include "training/learner_role.h"
#include "training/messages.h"

namespace biqa {

/// Order of calls for a step: learned, add_report for each rank, end_step, record. A checkpoint that cannot wait calls
/// record earlier; the line then has the times known so far, and the later call writes nothing.
class StepRecords {
 public:
  /// Borrows config and data. `step`: the last one whose line is in the folder.
  StepRecords(const Config& config, const TrainingData& data, RunFolder folder, std::int64_t step);

  const RunFolder& folder() const { return folder_; }

  /// Begins the line of this step and writes its trajectories. `version`: of the adapter that learned from them.
  void learned(const LearnedStep& learned, std::int64_t version);
  void add_report(const StepReport& report);
  void end_step(double sync_seconds, double step_seconds);
  /// Writes the line of `step`, once. Throws Error if there is none.
  void record(std::int64_t step);
  /// Prints what looks wrong in the line, and the progress.
  void comment(bool on_policy);

  void append(std::span<const EvalMetrics> figures) { folder_.append(figures); }
  void clear_progress() { progress_.clear(); }
  void finish_progress() { progress_.finish(); }
  /// Prints the mean traffic of so many steps, if there are several ranks.
  void print_traffic(std::int64_t steps, int ranks) const;

 private:
  void write_samples(const LearnedStep& learned);

  const Config& config_;
  const TrainingData& data_;
  RunFolder folder_;
  Progress progress_;
  StepMetrics metrics_;
  std::int64_t recorded_step_;
  SentBytes traffic_{};  // of all steps
};

}  // namespace biqa
