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

/// Figures of one set from groups of one member: first with the picture, then from the caption. Answers without a rating
/// are counted as parse failures and take no part in the correlations. Answers out of scale (answer_out_of_scale) are
/// counted; their ratings do take part, except in the figures `_in_scale`. `caption`: stage 2 was run.
std::vector<EvalMetrics> evaluate_groups(std::span<const Group> groups, const Profile& profile,
                                         std::int64_t step, const std::string& set,
                                         const std::string& decoding, bool caption);

/// The figure that `name` (caption_plcc, image_srcc, rouge1_r, …) chooses the best adapter by: greedy, or sampled where
/// there is nothing greedy, mean over sets; NaN if it was not measured. Ratings out of scale take part: the figure is the one
/// in metrics.jsonl, and an adapter that leaves the scale is not the better for it.
double best_figure(std::span<const EvalMetrics> figures, const std::string& name);

}  // namespace biqa
