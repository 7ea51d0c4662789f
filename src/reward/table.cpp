// SPDX-License-Identifier: Apache-2.0
#include "reward/table.h"

#include <glog/logging.h>

#include <algorithm>

#include "reward/rewards.h"

namespace biqa {
namespace {

constexpr Reward kRewards[] = {
    {"prediction", 1, "Prediction reward", "0 to 1", false, false, prediction_reward, Credit::rating,
     "completions without a rating (parse_rate), or ratings farther from the scores than rewards.tolerance"},
    {"consistency", 1, "Self-consistency reward", "0 to 1", true, false, consistency_reward,
     Credit::second_stage,
     "second-stage completions without a rating (stage2_parse_rate), or ratings farther from the scores than "
     "rewards.tolerance"},
    {"reasoning", 1, "Reasoning reward", "0 to 1", false, false, reasoning_reward, Credit::compared_text,
     "images without human texts, or completions without a rating (parse_rate)"},
    {"format", 1, "Format reward", "0 to 0.5", false, true, format_reward, Credit::whole,
     "a prompt that does not ask for the tags of prompts.profile"},
};

std::vector<Reward>& table() {
  static std::vector<Reward> rows(std::begin(kRewards), std::end(kRewards));
  return rows;
}

}  // namespace

std::span<const Reward> rewards() {
  return table();
}

std::size_t reward_column(std::string_view name) {
  const auto& rows = table();
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const Reward& r) { return r.name == name; });
  CHECK(row != rows.end()) << "no reward " << name;
  return static_cast<std::size_t>(row - rows.begin());
}

double reward_of(const Trajectory& trajectory, std::size_t column) {
  return trajectory.rewards.empty() ? 0 : trajectory.rewards.at(column);
}

bool earns_credit(const Reward& reward, CompletionPart part, const RewardConfig& config) {
  if (part == CompletionPart::second_stage) return reward.credit == Credit::second_stage;
  switch (reward.credit) {
    case Credit::whole:
      return true;
    case Credit::rating:
      return part == CompletionPart::rating;
    case Credit::compared_text:
      return part == CompletionPart::caption ||
             (part == CompletionPart::reasoning && config.rouge_span != RougeSpan::caption);
    case Credit::second_stage:
      return part == CompletionPart::caption ||
             (part == CompletionPart::reasoning && config.second_stage_reads_reasoning);
  }
  LOG(FATAL) << "unknown credit";
}

std::vector<WeightSchedule> default_reward_weights() {
  std::vector<WeightSchedule> weights;
  for (const Reward& reward : table()) weights.emplace_back(reward.weight);
  return weights;
}

void add_reward(const Reward& reward) {
  table().push_back(reward);
}

}  // namespace biqa
