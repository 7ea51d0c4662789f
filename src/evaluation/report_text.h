// SPDX-License-Identifier: Apache-2.0
// The figures of biqa_eval as JSON, CSV and tables (docs/evaluation.md).
#pragma once

#include <string>

#include "evaluation/report.h"

namespace biqa {

/// The formulas of the logistic curves and the values from which they are fitted.
inline constexpr const char* kFit4Formula =
    "y = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), start (max y, min y, mean x, sd x / 4)";
inline constexpr const char* kFit5Formula =
    "y = b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5, start (max y - min y, 1 / sd x, mean x, 0, mean "
    "y)";

/// One document; figures without a value are null.
std::string report_json(const Report& report);
/// One block per kind of row, each with its own header line; blank lines between the blocks. Figures without a value
/// are empty.
std::string report_csv(const Report& report);
/// For people.
std::string report_table(const Report& report);

}  // namespace biqa
