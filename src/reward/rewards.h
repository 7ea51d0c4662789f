// SPDX-License-Identifier: Apache-2.0
// Scores a group: parses its texts, then computes every reward of the table. Rewards are pure functions of these texts,
// the human score and the human text.
#pragma once

#include "data/prompts.h"
#include "data/trajectory.h"
#include "reward/table.h"

namespace biqa {

enum class RougeKind { precision, recall, f1 };
/// The part of the completion that is compared with the human text.
enum class RougeSpan {
  whole,         ///< the whole completion, including tags
  caption,       ///< inside the caption tags
  before_rating  ///< everything before the rating's opening tag
};
enum class PredictionShape {
  cosine,  ///< cosine_reward
  binary   ///< 1 if closer than the tolerance, otherwise 0
};

struct RewardConfig {
  std::vector<double> weights = default_reward_weights();  ///< one per row of rewards()
  double tolerance = 0.35;                                 ///< rating units, > 0
  RougeKind rouge = RougeKind::precision;
  RougeSpan rouge_span = RougeSpan::whole;
  PredictionShape prediction_shape = PredictionShape::cosine;
  double floor = 0.1;          ///< minimum of the reasoning reward
  bool penalise_leak = false;  ///< no consistency reward if the caption contains the rating
};

/// Sets format_ok, caption, reasoning, rating and stage2_rating of every member from its texts. Then it computes the
/// rewards and their weighted sum `reward`:
/// - prediction: closeness of the first-stage rating to the human score; 0 without a rating;
/// - consistency: closeness of the second-stage rating; 0 if either rating is missing;
/// - reasoning: max(floor, ROUGE-1 against the human text). It is the floor for a group without human text, and for a
///  completion without a rating or without the configured span;
/// - format: 0.5 if the completion consists of exactly the required parts in order, otherwise 0.
void score(Group& group, const RewardConfig& config, const Profile& profile);

}  // namespace biqa
