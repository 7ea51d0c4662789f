// SPDX-License-Identifier: Apache-2.0
// Computes metrics, lines of samples.jsonl and warnings from the trajectories of a step.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/trajectory.h"
#include "model/config.h"
#include "run/records.h"

namespace biqa {

/// All values of StepMetrics that depend only on the trajectories. `version`: version of the adapter before this step's
/// update; the lag is measured against it. Without trajectories nothing is measured.
StepMetrics figures_of(std::span<const Group> groups, std::int64_t version, const Config& config);

/// Operations of a step by its tokens: the rollout of both stages, the reference pass where the loss needs it, and forward and
/// backward passes of every update. Without the vision tower, recomputation and the adapter's own products. 0 for sft.
double step_flop(const ModelConfig& model, std::span<const Group> groups, const Config& config);

/// "  812 tokens/s  mfu 31.0 %" for the progress line. The speed is that of the rollout, or for sft that of the
/// learner. The text has no MFU if it was not measured.
std::string speed_text(const StepMetrics& metrics);

/// A line of samples.jsonl.
SampleRecord record_of(std::int64_t step, const Group& group, const Trajectory& trajectory,
                       const Config& config);

/// Warnings about a step's metrics, one sentence each; those about rewards are RewardWatch's. `on_policy`: actors sampled with the adapter that learners start
/// from.
std::vector<std::string> doubts_about(const StepMetrics& metrics, const Config& config, bool on_policy);

}  // namespace biqa
