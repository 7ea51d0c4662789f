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

double rouge_of(const RewardConfig& config, std::string_view human_text, std::string_view text) {
  const Rouge rouge = rouge1(human_text, text);
  return config.rouge == RougeKind::precision ? rouge.precision
         : config.rouge == RougeKind::recall  ? rouge.recall
                                              : rouge.f1;
}

}  // namespace

double reasoning_reward(const RewardInput& input) {
  const RewardConfig& config = input.config;
  const auto text = compared_text(input);
  const std::string_view human_text = input.group.annotation.human_text;
  if (!text || human_text.empty()) return config.floor;
  const auto similarity = [&] { return input.judge->similarity(human_text, *text); };
  double value = 0;
  switch (config.reasoning_kind) {
    case ReasoningKind::rouge:
      value = rouge_of(config, human_text, *text);
      break;
    case ReasoningKind::semantic:
      value = similarity();
      break;
    case ReasoningKind::polarity:
      value = input.judge->polarity(human_text, *text).value_or(0);
      break;
    case ReasoningKind::mix: {
      const double words_and_meaning = rouge_of(config, human_text, *text) + similarity();
      const std::optional<double> polarity = input.judge->polarity(human_text, *text);
      value = polarity ? (words_and_meaning + *polarity) / 3 : words_and_meaning / 2;
      break;
    }
  }
  return std::max(config.floor, value);
}

}  // namespace biqa
