// SPDX-License-Identifier: Apache-2.0
// The figures of biqa_eval as JSON, CSV and tables (docs/evaluation.md).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "evaluation/comparison.h"
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

/// The same of a comparison; `a` and `b` name the files.
std::string comparison_json(const std::vector<ComparisonRow>& rows, const std::string& a,
                            const std::string& b);
std::string comparison_csv(const std::vector<ComparisonRow>& rows);
std::string comparison_table(const std::vector<ComparisonRow>& rows, const std::string& a,
                             const std::string& b);

/// A table like those of pyiqa's benchmark: a line per condition and decoding, a column per set. A cell has
/// PLCC/SRCC/KRCC of the ratings as they are, as absolute values rounded to four decimals. To the right of each column,
/// a second one has the same figures with sign and all digits.
std::string like_pyiqa(const Report& report);

/// One JSON object per line for an outside judge, two for each answer to an image with human text: the answer with the
/// image's own human text (pair: own) and with that of another image (pair: other), as for the chance level. Another
/// image exists only if the set has two different human texts. Rows whose answer is unknown are left out.
std::string judge_rows(std::span<const Prediction> predictions, std::uint64_t seed);

}  // namespace biqa
