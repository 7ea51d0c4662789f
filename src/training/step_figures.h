// SPDX-License-Identifier: Apache-2.0
// A step's trajectories as the figures, lines and doubts that a person follows a run by.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/trajectory.h"
#include "run/records.h"

namespace biqa {

/// Everything of StepMetrics that follows from the trajectories alone. `version`: of the adapter that is about to
/// learn from them, against which their lag is measured. Without trajectories nothing is measured.
StepMetrics figures_of(std::span<const Group> groups, std::int64_t version, const Config& config);

/// The line of samples.jsonl.
SampleRecord record_of(std::int64_t step, const Group& group, const Trajectory& trajectory,
                       const Config& config);

/// What in a step's figures says that something is wrong, a sentence each. `on_policy`: actors and learners had the
/// same adapter.
std::vector<std::string> doubts_about(const StepMetrics& metrics, const Config& config, bool on_policy);

}  // namespace biqa
