// SPDX-License-Identifier: Apache-2.0
#include "training/reward_watch.h"

#include <fmt/format.h>

#include <cmath>

namespace biqa {

bool RewardWatch::watches(std::size_t column, const StepMetrics& metrics) const {
  const Reward& reward = rewards()[column];
  if (config_.rewards.weights[column].at(metrics.step) == 0) return false;
  if (reward.needs_stage2 && !config_.stage2.enabled) return false;
  return !(reward.may_be_full && metrics.reward_stds[column] == 0 && metrics.reward_means[column] != 0);
}

std::vector<std::string> RewardWatch::look_at(const StepMetrics& metrics) {
  constexpr double kRounding = 1e-9;
  std::vector<std::string> warnings;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    Column& column = columns_[i];
    const Reward& reward = rewards()[i];
    const double mean = metrics.reward_means[i], deviation = metrics.reward_stds[i];
    if (!watches(i, metrics)) {
      column = {};
      continue;
    }
    if (deviation == 0 && !column.same_for_all) {
      warnings.push_back(
          fmt::format("reward {} is {} for every completion: as long as this lasts, it teaches nothing",
                      reward.name, mean));
    }
    column.same_for_all = deviation == 0;
    const bool still = column.steps > 0 && std::abs(mean - column.mean) <= kRounding &&
                       std::abs(deviation - column.deviation) <= kRounding;
    if (still) {
      ++column.steps;
    } else {
      column.steps = 1;
      column.mean = mean;
      column.deviation = deviation;
    }
    if (column.steps == config_.rewards.stall_steps) {
      warnings.push_back(
          fmt::format("reward {} has not moved for {} steps: mean {:.4g}, deviation {:.4g}; look for: {}",
                      reward.name, column.steps, mean, deviation, reward.stall_causes));
    }
  }
  return warnings;
}

}  // namespace biqa
