// SPDX-License-Identifier: Apache-2.0
// Computes metrics, lines of samples.jsonl and warnings from the trajectories of a step.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/trajectory.h"
#include "run/records.h"

namespace biqa {

/// All values of StepMetrics that depend only on the trajectories. `version`: version of the adapter before this step's
/// update; the lag is measured against it. Without trajectories nothing is measured.
StepMetrics figures_of(std::span<const Group> groups, std::int64_t version, const Config& config);

/// A line of samples.jsonl.
SampleRecord record_of(std::int64_t step, const Group& group, const Trajectory& trajectory,
                       const Config& config);

/// Warnings about a step's metrics, one sentence each. `on_policy`: actors sampled with the adapter that learners start
/// from.
std::vector<std::string> doubts_about(const StepMetrics& metrics, const Config& config, bool on_policy);

}  // namespace biqa
