// SPDX-License-Identifier: Apache-2.0
// The four rewards of a trajectory: pure functions of its texts, the human score and the human text.
#pragma once

#include "data/prompts.h"
#include "data/trajectory.h"

namespace biqa {

enum class RougeKind { precision, recall, f1 };
/// Which part of the completion is compared with the human text.
enum class RougeSpan {
  whole,         ///< all of it, tags included
  caption,       ///< inside the caption tags
  before_rating  ///< all that stands before the rating's opening tag
};
enum class PredictionShape {
  cosine,  ///< cosine_reward
  binary   ///< 1 closer than the tolerance, else 0 (the warm-up baseline)
};

struct RewardConfig {
  RewardColumns weights{1, 1, 1, 1};
  double tolerance = 0.35;  ///< rating units, > 0
  RougeKind rouge = RougeKind::precision;
  RougeSpan rouge_span = RougeSpan::whole;
  PredictionShape prediction_shape = PredictionShape::cosine;
  double floor = 0.1;          ///< least reasoning reward
  bool penalise_leak = false;  ///< no consistency reward where the caption gives the rating away
};

/// ½(1 + cos(π d/t)) for 0 <= d < t, else 0 (also for NaN).
double cosine_reward(double distance, double tolerance);

/// Reads the texts of every member (format_ok, caption, reasoning, rating, stage2_rating) and fills the
/// columns and their weighted sum `reward`:
/// - prediction: closeness of the stage-1 rating to the human score; 0 without a rating;
/// - consistency: closeness of the stage-2 rating; 0 without it or without a stage-1 rating;
/// - reasoning: max(floor, ROUGE-1 against the human text); the floor for the whole group without human text,
/// and for a
///   completion without a rating (unparsable) or without the span asked for;
/// - format: 0.5 if the completion is exactly the asked parts in order, else 0.
void score(Group& group, const RewardConfig& config, const Profile& profile);

}  // namespace biqa
