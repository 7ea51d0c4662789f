// SPDX-License-Identifier: Apache-2.0
#include "reward/rewards.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <string_view>

#include "data/response.h"
#include "data/rouge.h"

namespace biqa {
namespace {

constexpr double kFormatReward = 0.5;

double closeness(const std::optional<double>& rating, double score, const RewardConfig& config) {
  if (!rating) return 0;
  const double distance = std::abs(*rating - score);
  if (config.prediction_shape == PredictionShape::cosine) return cosine_reward(distance, config.tolerance);
  return distance < config.tolerance ? 1 : 0;
}

std::optional<std::string_view> compared_text(const Trajectory& trajectory, RougeSpan span,
                                              const Profile& profile) {
  if (!trajectory.rating) return std::nullopt;
  switch (span) {
    case RougeSpan::whole:
      return trajectory.text;
    case RougeSpan::caption:
      return trajectory.caption;
    case RougeSpan::before_rating:
      return before_rating(profile, trajectory.text);
  }
  return std::nullopt;
}

double reasoning_reward(const Trajectory& trajectory, const Group& group, const RewardConfig& config,
                        const Profile& profile) {
  const auto text = compared_text(trajectory, config.rouge_span, profile);
  if (!text || group.human_text.empty()) return config.floor;
  const Rouge rouge = rouge1(group.human_text, *text);
  const double value = config.rouge == RougeKind::precision ? rouge.precision
                       : config.rouge == RougeKind::recall  ? rouge.recall
                                                            : rouge.f1;
  return std::max(config.floor, value);
}

}  // namespace

double cosine_reward(double distance, double tolerance) {
  if (!(distance < tolerance)) return 0;
  return 0.5 * (1 + std::cos(std::numbers::pi * distance / tolerance));
}

void score(Group& group, const RewardConfig& config, const Profile& profile) {
  for (Trajectory& member : group.members) {
    Stage1Response response = parse_stage1(profile, member.text);
    member.format_ok = response.format_ok;
    member.caption = std::move(response.caption);
    member.reasoning = std::move(response.reasoning);
    member.rating = response.rating;
    member.stage2_rating = parse_stage2(profile, member.stage2_text);

    const bool leak = config.penalise_leak && member.rating && member.caption &&
                      leaks_rating(*member.caption, *member.rating);
    RewardColumns& rewards = member.rewards;
    rewards.prediction = closeness(member.rating, group.score, config);
    rewards.consistency = member.rating && !leak ? closeness(member.stage2_rating, group.score, config) : 0;
    rewards.reasoning = reasoning_reward(member, group, config, profile);
    rewards.format = member.format_ok ? kFormatReward : 0;
    const RewardColumns& weights = config.weights;
    member.reward = weights.prediction * rewards.prediction + weights.consistency * rewards.consistency +
                    weights.reasoning * rewards.reasoning + weights.format * rewards.format;
  }
}

}  // namespace biqa
