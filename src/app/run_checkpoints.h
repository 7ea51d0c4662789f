// SPDX-License-Identifier: Apache-2.0
// The checkpoints of a run: begun beside the training, watched between steps, the best one remembered.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>

#include "app/config.h"
#include "app/run_folder.h"
#include "comm/communicator.h"
#include "learner/checkpoint_writer.h"
#include "learner/learner.h"

namespace biqa {

/// One learner's part. All learners call begin, check, finish and note_evaluation alike and in the same order.
class RunCheckpoints {
 public:
  /// Collective: the learners agree on a token for what this run of the program writes.
  RunCheckpoints(const Config& config, Communicator& learners);

  CheckpointWriter& writer() { return writer_; }
  const CheckpointWriter& writer() const { return writer_; }

  void begin(const Learner& learner, const CheckpointInfo& info);
  bool under_way() const { return under_way_; }
  /// Between steps: has the save under way ended, on all learners? A failed one is told of and training goes on.
  void check();
  /// Behind the last step: waits, and nothing but a whole checkpoint will do. Throws Error.
  void finish();

  /// What earlier runs in this folder have come to; the first learner alone needs it.
  void know_best(std::int64_t step, std::span<const EvalMetrics> figures);
  /// The best adapter so far is worth a checkpoint of its own, and the link `best` points to it. True: save now. Figures
  /// on the first learner.
  bool note_evaluation(std::int64_t step, std::span<const EvalMetrics> figures);
  /// The figure that the adapter of `step` was chosen by; NaN where it was not evaluated.
  double figure_of(std::int64_t step) const { return evaluated_step_ == step ? evaluated_ : kNotMeasured; }

 private:
  bool first() const { return learners_.rank() == 0; }
  void point_to_best() const;

  const std::string figure_;
  const std::filesystem::path root_;
  Communicator& learners_;
  CheckpointWriter writer_;
  bool under_way_ = false;
  std::int64_t evaluated_step_ = -1, best_step_ = 0;
  double evaluated_ = kNotMeasured, best_ = -std::numeric_limits<double>::infinity();
};

}  // namespace biqa
