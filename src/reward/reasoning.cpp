// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <optional>
#include <string_view>

#include "data/response.h"
#include "data/rouge.h"
#include "reward/rewards.h"
#include "reward/table.h"

namespace biqa {
namespace {

std::optional<std::string_view> compared_text(const RewardInput& input) {
  const Trajectory& t = input.trajectory;
  if (!t.rating) return std::nullopt;
  switch (input.config.rouge_span) {
    case RougeSpan::whole:
      return t.text;
    case RougeSpan::caption:
      return t.caption;
    case RougeSpan::before_rating:
      return before_rating(input.profile, t.text);
  }
  return std::nullopt;
}

}  // namespace

double reasoning_reward(const RewardInput& input) {
  const RewardConfig& config = input.config;
  const auto text = compared_text(input);
  if (!text || input.group.annotation.human_text.empty()) return config.floor;
  const Rouge rouge = rouge1(input.group.annotation.human_text, *text);
  const double value = config.rouge == RougeKind::precision ? rouge.precision
                       : config.rouge == RougeKind::recall  ? rouge.recall
                                                            : rouge.f1;
  return std::max(config.floor, value);
}

}  // namespace biqa
