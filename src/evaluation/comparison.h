// SPDX-License-Identifier: Apache-2.0
// Two models on the same images: which one agrees better with people, and whether that could be chance.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "evaluation/predictions.h"
#include "evaluation/report.h"

namespace biqa {

/// A figure of both, and A minus B with a 95 % interval from paired bootstrap draws.
struct ComparedFigure {
  double a = kNoFigure, b = kNoFigure, difference = kNoFigure;
  Interval difference_ci = kNoInterval;
};

/// One set, condition and decoding, over the rows (set, id, repeat) for which both have a rating.
struct ComparisonRow {
  std::string set, condition, decoding;
  std::int64_t n = 0;
  std::int64_t left_out = 0;  ///< rows that only one of them has, or for which one has no rating
  ComparedFigure plcc, srcc, rmse, mae;
  std::int64_t closer_a = 0, closer_b = 0, equal = 0;  ///< whose rating is closer to the score
  double sign_test_p = kNoFigure;                      ///< sign_test(closer_a, closer_b)
};

/// Throws Error if both have a row with different scores. Sets that only one of them has are left out.
std::vector<ComparisonRow> compare_predictions(std::span<const Prediction> a, std::span<const Prediction> b,
                                               const ReportOptions& options);

}  // namespace biqa
