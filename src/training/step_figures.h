// SPDX-License-Identifier: Apache-2.0
// Turns the trajectories of a step into metrics, lines of samples.jsonl, and warnings.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/trajectory.h"
#include "run/records.h"

namespace biqa {

/// Everything of StepMetrics that follows from the trajectories alone. `version`: the adapter version that is about
/// to be updated; the lag is measured against it. Without trajectories nothing is measured.
StepMetrics figures_of(std::span<const Group> groups, std::int64_t version, const Config& config);

/// The line of samples.jsonl.
SampleRecord record_of(std::int64_t step, const Group& group, const Trajectory& trajectory,
                       const Config& config);

/// Warnings about a step's metrics, one sentence each. `on_policy`: actors and learners had the same adapter.
std::vector<std::string> doubts_about(const StepMetrics& metrics, const Config& config, bool on_policy);

}  // namespace biqa
