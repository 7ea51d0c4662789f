// SPDX-License-Identifier: Apache-2.0
// The checkpoints of a run: begun beside the training, watched between steps, the best one remembered.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "learner/checkpoint_writer.h"
#include "learner/learner.h"
#include "run/run_folder.h"

namespace biqa {

/// One learner's part. All learners call begin, check, finish and note_evaluation alike and in the same order.
class RunCheckpoints {
 public:
  /// Collective: the learners agree on a token for what this run of the program writes.
  RunCheckpoints(const Config& config, Communicator& learners);

  CheckpointWriter& writer() { return writer_; }
  const CheckpointWriter& writer() const { return writer_; }

  /// The run in this folder goes on from `step` (0: its beginning), and no other process writes there; the first learner
  /// alone calls it. `figures`: of the evaluation that the best checkpoint so far was chosen by.
  void take_over(std::int64_t step, const std::map<std::int64_t, std::vector<EvalMetrics>>& figures);

  void begin(const Learner& learner, const CheckpointInfo& info);
  /// A save may begin now: none is under way, or this one can't wait, since no other step is the best.
  bool may_begin(std::int64_t step) const { return !under_way_ || best_to_save_ == step; }
  /// A save that waits for no other learner, between a launcher's SIGTERM and its SIGKILL. True at most once, and not while
  /// another save is written: insure() now.
  bool take_insurance();
  void insure(const Learner& learner, const CheckpointInfo& info) { writer_.begin(learner, info, true); }

  /// Between steps: has the save under way ended, on all learners? A failed one is told of and training goes on.
  void check();
  /// Behind the last step: waits, and nothing but a whole checkpoint will do. Throws Error.
  void finish();

  /// The best adapter so far is worth a checkpoint of its own, and the link `best` points to it. True: save now. Figures
  /// on the first learner.
  bool note_evaluation(std::int64_t step, std::span<const EvalMetrics> figures);
  /// The figure that the adapter of `step` was chosen by; NaN where it was not evaluated.
  double figure_of(std::int64_t step) const { return evaluated_step_ == step ? evaluated_ : kNotMeasured; }

 private:
  bool first() const { return learners_.rank() == 0; }
  void point_to_best() const;
  /// The first learner for which `mine` holds; their number if there is none. Collective.
  int first_of_learners(bool mine) const;

  const std::string figure_;
  const std::filesystem::path root_;
  Communicator& learners_;
  CheckpointWriter writer_;
  bool under_way_ = false, insured_ = false;
  std::int64_t best_to_save_ = -1;
  std::int64_t evaluated_step_ = -1, best_step_ = 0;
  double evaluated_ = kNotMeasured, best_ = -std::numeric_limits<double>::infinity();
};

}  // namespace biqa
