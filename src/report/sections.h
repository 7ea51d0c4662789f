// SPDX-License-Identifier: Apache-2.0
// The sections of the report about runs. Each function returns the HTML of one section.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "report/run_report.h"
#include "report/runs.h"

namespace biqa {

using Configurations = std::span<const Configuration>;

/// Which line belongs to which configuration. Empty for a single configuration without a band.
std::string configuration_legend(Configurations configurations);

std::string headline_section(const RunReportInputs& inputs, Configurations configurations);
std::string evaluation_section(const RunReportInputs& inputs, Configurations configurations);
std::string training_section(const RunReportInputs& inputs, Configurations configurations);
std::string trade_off_section(const RunReportInputs& inputs, Configurations configurations);
std::string agreement_section(const RunReportInputs& inputs);
/// Counts the pictures that it could not show.
std::string answers_section(const RunReportInputs& inputs, Configurations configurations,
                            std::int64_t& missing_pictures);
std::string settings_section(const RunReportInputs& inputs, Configurations configurations);
std::string time_section(const RunReportInputs& inputs, Configurations configurations);

}  // namespace biqa
