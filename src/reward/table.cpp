// SPDX-License-Identifier: Apache-2.0
#include "reward/table.h"

#include <glog/logging.h>

#include <algorithm>

namespace biqa {
namespace {

constexpr Reward kRewards[] = {
    {"prediction", 1, "Prediction reward", "0 to 1", false, false, prediction_reward},
    {"consistency", 1, "Self-consistency reward", "0 to 1", true, false, consistency_reward},
    {"reasoning", 1, "Reasoning reward", "0 to 1", false, false, reasoning_reward},
    {"format", 1, "Format reward", "0 to 0.5", false, true, format_reward},
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

std::vector<double> default_reward_weights() {
  std::vector<double> weights;
  for (const Reward& reward : table()) weights.push_back(reward.weight);
  return weights;
}

void add_reward(const Reward& reward) {
  table().push_back(reward);
}

}  // namespace biqa
