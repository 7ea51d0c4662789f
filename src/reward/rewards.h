// SPDX-License-Identifier: Apache-2.0
// Scores a group: parses its texts, then computes every reward of the table. Rewards are pure functions of these texts,
// the human score and the human text.
#pragma once

#include <filesystem>

#include "data/prompts.h"
#include "data/trajectory.h"
#include "reward/table.h"
#include "reward/text_judge.h"

namespace biqa {

/// The measure by which the reasoning reward compares completions with human texts.
enum class ReasoningKind {
  rouge,     ///< words: ROUGE-1
  semantic,  ///< TextJudge::similarity
  polarity,  ///< TextJudge::polarity
  mix        ///< mean of the three; without polarity if the human text says nothing about quality
};
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
  std::vector<WeightSchedule> weights = default_reward_weights();  ///< one per row of rewards()
  double tolerance = 0.35;                                         ///< rating units, > 0
  RougeKind rouge = RougeKind::precision;
  RougeSpan rouge_span = RougeSpan::whole;
  PredictionShape prediction_shape = PredictionShape::cosine;
  ReasoningKind reasoning_kind = ReasoningKind::rouge;
  std::filesystem::path similarity_model;  ///< folder of a sentence encoder; needed by `semantic` and `mix`
  std::filesystem::path lexicon;           ///< terms of quality; empty: the built-in ones
  double floor = 0.1;                      ///< minimum of the reasoning reward
  bool penalise_leak = false;              ///< no consistency reward if the caption contains the rating
  bool second_stage_reads_reasoning = false;  ///< besides the caption
  /// a reward is reported when its mean and deviation have not changed for this number of steps; 0: never
  std::int64_t stall_steps = 10;
};

/// Sets format_ok, caption, reasoning, rating and stage2_rating of every member from its texts. Then it computes the
/// rewards and their weighted sum `reward`, with the weights of the group's step:
/// - prediction: closeness of the first-stage rating to the human score; 0 without a rating;
/// - consistency: closeness of the second-stage rating; 0 if either rating is missing;
/// - reasoning: max(floor, agreement with the human text by reasoning_kind). It is the floor for a group without human
///  text, and for a completion without a rating or without the configured span. With `polarity` it is also the floor for
///  a group whose human text says nothing about quality;
/// - format: 0.5 if the completion consists of exactly the required parts in order, otherwise 0.
/// `judge` may be nullptr for ReasoningKind::rouge (CHECK).
void score(Group& group, const RewardConfig& config, const Profile& profile, TextJudge* judge = nullptr);

}  // namespace biqa
