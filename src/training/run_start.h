// SPDX-License-Identifier: Apache-2.0
// How a run starts: from which checkpoint, whether that fits, and what its folder already holds. Plain functions; the first
// learner calls them while it holds the lock of the folder.
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

/// The lag that this job can have: rollout.policy_lag, or 0 if an actor also learns or nothing is rolled out. `tell`: warn
/// of actors that learn.
std::int64_t possible_lag(const Config& config, const RolePlan& roles, bool tell);

/// Checkpoints from which checkpoint.resume lets a run resume.
struct ResumeCandidates {
  std::vector<std::filesystem::path> folders;  ///< newest first; the first whole one is used
  bool only = false;                           ///< there is one, and it is an error if it is damaged
  std::string needed_by;                       ///< not empty: an error if none is whole; what was asked for
};
/// Throws Error if the folder that was asked for does not exist, or if train.out holds another run.
ResumeCandidates resume_candidates(const Config& config);

/// What a checkpoint was trained on, as fingerprints.
struct TrainedOn {
  std::string base_weights, training_data;
};

/// Throws Error if this run cannot resume from the checkpoint: its adapter has another layout, it was trained on other
/// weights, or with checkpoint.resume: auto it had another seed. Warns of other training data and of changed settings.
void check_resumed(const Config& config, const FoundCheckpoint& found, const LoraLayout& layout,
                   const TrainedOn& now);

/// How a run begins in its folder.
struct RunStart {
  bool finished = false;  ///< all steps, the last evaluation and the results are there: nothing is left to do
  FirstEvaluation evaluation = FirstEvaluation::none;
  std::optional<std::int64_t> resumed_step;  ///< for RunFolder
  bool evaluated = true;  ///< the evaluation that belongs to the resumed step is in metrics.jsonl
  std::map<std::int64_t, std::vector<EvalMetrics>> evaluations;  ///< in metrics.jsonl, by step
};
/// `step`: of the checkpoint, 0 without one. `steps`: of the whole run. `sets`: number of evaluation sets. Throws Error if
/// the checkpoint is beyond the last step, or if the folder holds a run none of whose checkpoints can be used.
RunStart plan_start(const Config& config, std::int64_t step, std::int64_t steps, std::size_t sets);

}  // namespace biqa
