// SPDX-License-Identifier: Apache-2.0
// Metrics of the agreement between ratings and human scores, with the image and from the caption alone.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/prompts.h"
#include "data/trajectory.h"
#include "run/records.h"

namespace biqa {

/// Metrics of one evaluation set. Each group has one member. The first result is for the ratings with the image. With
/// `caption`, a second result is for the ratings from the caption alone. Completions without a rating count as parse
/// failures and are not part of the correlations. Completions out of scale (answer_out_of_scale) are counted; their
/// ratings are part of all metrics except `…_in_scale`. `caption`: the second stage was run.
std::vector<EvalMetrics> evaluate_groups(std::span<const Group> groups, const Profile& profile,
                                         std::int64_t step, const std::string& set,
                                         const std::string& decoding, bool caption);

/// Value of the metric `name` (a row of config/best_metric.h), averaged over sets. Uses greedy decoding, or
/// sampling if greedy was not evaluated. NaN if it was not measured. Ratings out of scale are included, as in
/// metrics.jsonl. Otherwise an adapter could improve its value by rating out of scale.
double best_figure(std::span<const EvalMetrics> figures, const std::string& name);

}  // namespace biqa
