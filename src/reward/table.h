// SPDX-License-Identifier: Apache-2.0
// The rewards as one table. A row is all that configuration, messages between ranks, metrics, step dumps and curves know
// of a reward. A new reward is a function in a file of this folder and a row in table.cpp.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "data/prompts.h"
#include "data/trajectory.h"

namespace biqa {

struct RewardConfig;

/// What a reward may look at. The texts of the trajectory are parsed already.
struct RewardInput {
  const Group& group;
  const Trajectory& trajectory;
  const RewardConfig& config;
  const Profile& profile;
};

struct Reward {
  std::string_view name;   ///< key `rewards.NAME`, metrics `reward_NAME_mean` and `reward_NAME_std`
  double weight;           ///< default of `rewards.NAME`
  std::string_view title;  ///< of its curve
  std::string_view range;  ///< axis of its curve
  bool needs_stage2;       ///< always 0 where the second stage is switched off
  bool may_be_full;        ///< the same value above 0 for every answer is the aim, no reason for a warning
  double (*value)(const RewardInput& input);
};

double prediction_reward(const RewardInput& input);
double consistency_reward(const RewardInput& input);
double reasoning_reward(const RewardInput& input);
double format_reward(const RewardInput& input);

/// All rewards, in the order of their columns.
std::span<const Reward> rewards();
/// Column of a reward; its name must be one of the table's (CHECK).
std::size_t reward_column(std::string_view name);
/// Column of a trajectory; 0 where it was not scored, as in supervised fine-tuning.
double reward_of(const Trajectory& trajectory, std::size_t column);
/// The table's weights.
std::vector<double> default_reward_weights();
/// Adds a row behind the others, for tests. Not while anything else of this process uses rewards.
void add_reward(const Reward& reward);

}  // namespace biqa
