// SPDX-License-Identifier: Apache-2.0
// How the configurations of a sweep differ from one of them, paired by seed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/statistics.h"
#include "run/sweep_table.h"

namespace biqa {

/// Configuration minus the other one, over the seeds for which both have the figure.
struct SweepDifference {
  std::int64_t pairs = 0;
  double mean = kNotMeasured;                     ///< NaN without a pair
  Interval interval{kNotMeasured, kNotMeasured};  ///< 95 %, Student's t; NaN for fewer than two pairs
};

/// A configuration on one evaluation set with one decoding.
struct SweepDifferenceRow {
  std::string config, set, decoding;
  std::vector<SweepDifference> figures;  ///< one per column
};

struct SweepDifferences {
  std::string against;
  std::span<const SweepColumn> columns;
  std::vector<SweepDifferenceRow> rows;  ///< all configurations but `against`
  /// What a reader must know: the notes of the table, configurations with fewer than two pairs, and those
  /// that were evaluated on another number of images than `against`
  std::vector<std::string> notes;
};

/// `runs`: of SweepSource::evaluation. For figures of texts, further columns have their excess over the chance level.
/// Throws Error (usage) if no configuration has the name `against`.
SweepDifferences sweep_differences(const std::vector<SweepRun>& runs, const std::string& against);

/// One block of lines per set and decoding, as "mean [low, high]".
std::string differences_text(const SweepDifferences& differences);
/// One line per row, with the columns NAME_mean, NAME_low, NAME_high and NAME_pairs of each figure.
std::string differences_csv(const SweepDifferences& differences);
/// One document {"against": …, "rows": […], "notes": […]}. A figure without value is null.
std::string differences_json(const SweepDifferences& differences);

}  // namespace biqa
