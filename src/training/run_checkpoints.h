// SPDX-License-Identifier: Apache-2.0
// Manages a run's checkpoints: starts saves in the background, checks them between steps, and keeps track of the best
// one.
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
#include "training/save_state.h"

namespace biqa {

/// One learner's part. All learners call begin, check, finish and note_evaluation in the same order.
class RunCheckpoints {
 public:
  /// Collective: the learners agree on a random token, which marks the temporary folders of this start of the program.
  RunCheckpoints(const Config& config, Communicator& learners);

  CheckpointWriter& writer() { return writer_; }
  const CheckpointWriter& writer() const { return writer_; }

  /// Continues the run in this folder from `step` (0: from its start). Only the first learner calls this, and no
  /// other process may write there. `figures`: metrics of earlier evaluations by step; used to restore which
  /// checkpoint is the best so far.
  void take_over(std::int64_t step, const std::map<std::int64_t, std::vector<EvalMetrics>>& figures);

  /// The state of the saves: whether a save is wanted, and whether it may start now. The save of a new best step is
  /// never delayed.
  SaveProgress& saves() { return saves_; }
  const SaveProgress& saves() const { return saves_; }
  void begin(const Learner& learner, const CheckpointInfo& info);
  bool may_begin(std::int64_t step) const { return saves_.may_begin(step); }
  /// Whether to call insure() now. An insurance is a save that does not wait for other learners. It uses the time
  /// between a launcher's SIGTERM and its SIGKILL. True at most once, and never during another save.
  bool take_insurance();
  void insure(const Learner& learner, const CheckpointInfo& info) { writer_.begin(learner, info, true); }

  /// Called between steps: checks whether the running save has ended on all learners. If it failed, prints a warning;
  /// training continues.
  void check();
  /// Called after the last step: waits for the last save. Throws Error if it fails.
  void finish();

  /// If this step is the best so far, requests its own checkpoint at once, lets the link `best` point to it, and
  /// returns true. `figures` is used on the first learner only.
  bool note_evaluation(std::int64_t step, std::span<const EvalMetrics> figures);
  /// Value of the metric `checkpoint.best` for the adapter of `step`; NaN if it was not evaluated.
  double figure_of(std::int64_t step) const { return evaluated_step_ == step ? evaluated_ : kNotMeasured; }

 private:
  bool first() const { return learners_.rank() == 0; }
  void point_to_best() const;
  /// Index of the first learner whose `mine` is true; the number of learners if there is none. Collective.
  int first_of_learners(bool mine) const;

  const std::string figure_;
  const std::filesystem::path root_;
  Communicator& learners_;
  CheckpointWriter writer_;
  SaveProgress saves_;
  /// take_insurance() has returned true. This is not a state of `saves_`: all learners have the same states, but SIGTERM reaches
  /// each learner at a different time.
  bool insurance_taken_ = false;
  std::int64_t evaluated_step_ = -1, best_step_ = 0;
  double evaluated_ = kNotMeasured, best_ = -std::numeric_limits<double>::infinity();
};

}  // namespace biqa
