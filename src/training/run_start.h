// SPDX-License-Identifier: Apache-2.0
// Functions that decide how a run starts. They choose the checkpoint, check that it fits, and examine the run folder.
// The first learner calls them while it holds the lock of the folder. Only possible_lag() is called on every rank.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "comm/roles.h"
#include "config/config.h"
#include "learner/checkpoint_reader.h"
#include "model/lora.h"
#include "run/records.h"
#include "training/messages.h"

namespace biqa {

/// The lag of this job: rollout.policy_lag, or 0 if an actor is also a learner or nothing is rolled out. `tell`: print
/// a warning if actors are also learners.
std::int64_t possible_lag(const Config& config, const RolePlan& roles, bool tell);

/// Checkpoints from which the run may resume, as checkpoint.resume says.
struct ResumeCandidates {
  std::vector<std::filesystem::path> folders;  ///< newest first; the first undamaged one is used
  bool only = false;                           ///< only this one may be used: Error if it is damaged
  /// not empty: the setting that requires a checkpoint; Error if all are damaged
  std::string needed_by;
};
/// Throws Error if the folder in checkpoint.resume does not exist, or if train.out contains another run.
ResumeCandidates resume_candidates(const Config& config);

/// Fingerprints of the weights and the data that a run trains on.
struct TrainedOn {
  std::string base_weights, training_data;
};

/// Throws Error if this run cannot resume from the checkpoint, because its adapter has another layout, its base model
/// differs, or (with checkpoint.resume: auto) its seed differs. Warns of other training data and changed settings.
void check_resumed(const Config& config, const FoundCheckpoint& found, const LoraLayout& layout,
                   const TrainedOn& now);

/// The start of a run in its folder.
struct RunStart {
  bool finished = false;  ///< all steps, the last evaluation and the results exist, so nothing is left to do
  FirstEvaluation evaluation = FirstEvaluation::none;
  std::optional<std::int64_t> resumed_step;  ///< argument of RunFolder
  bool evaluated = true;                     ///< metrics.jsonl contains the evaluation of the resumed step
  std::map<std::int64_t, std::vector<EvalMetrics>> evaluations;  ///< those in metrics.jsonl, by step
};
/// `step`: of the checkpoint; 0 without one. `steps`: of the whole run. `sets`: number of evaluation sets. Throws Error
/// if the checkpoint is after the last step, or if the folder contains a run without a usable checkpoint.
RunStart plan_start(const Config& config, std::int64_t step, std::int64_t steps, std::size_t sets);

}  // namespace biqa
