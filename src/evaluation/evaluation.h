// SPDX-License-Identifier: Apache-2.0
// Agreement of ratings with human scores, with the picture and from the caption alone.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/prompts.h"
#include "data/trajectory.h"
#include "run/records.h"

namespace biqa {

/// Metrics of one evaluation set. Each group has one member. Returns two results: ratings given with the image, then
/// ratings given from the caption alone. Answers without a rating are counted as parse failures and take no part in
/// the correlations. Answers out of scale (answer_out_of_scale) are counted; their ratings do take part, except in
/// the figures `_in_scale`. `caption`: stage 2 was run.
std::vector<EvalMetrics> evaluate_groups(std::span<const Group> groups, const Profile& profile,
                                         std::int64_t step, const std::string& set,
                                         const std::string& decoding, bool caption);

/// Value of the metric `name` (caption_plcc, image_srcc, rouge1_r, …), averaged over sets. Uses greedy decoding, or
/// sampling if greedy was not evaluated. NaN if it was not measured. Ratings out of scale take part: the figure is
/// the one in metrics.jsonl, and an adapter that leaves the scale is not the better for it.
double best_figure(std::span<const EvalMetrics> figures, const std::string& name);

}  // namespace biqa
