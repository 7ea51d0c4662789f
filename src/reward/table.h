// SPDX-License-Identifier: Apache-2.0
// The table of rewards. Configuration, messages between ranks, metrics, step dumps and curves know a reward only
// through its row. To add a reward, write a function in a file of this folder and add a row in table.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/prompts.h"
#include "data/token_parts.h"
#include "data/trajectory.h"
#include "reward/weight_schedule.h"

namespace biqa {

struct RewardConfig;
class TextJudge;

/// The inputs of a reward. The texts of the trajectory are already parsed.
struct RewardInput {
  const Group& group;
  const Trajectory& trajectory;
  const RewardConfig& config;
  const Profile& profile;
  TextJudge* judge = nullptr;  ///< set if the configuration needs one
};

/// The parts of a trajectory that earn a reward with `objective.credit: parts`: the reward counts in the advantage of
/// their tokens.
enum class Credit : std::uint8_t {
  whole,          ///< all of the first stage
  rating,         ///< the part with the rating
  compared_text,  ///< what is compared with the human text: the caption, and also the reasoning unless
                  ///< `rewards.rouge_span` is `caption`
  second_stage    ///< what the second stage reads (`stage2.input`), and the second-stage completion itself
};

struct Reward {
  std::string_view name;   ///< key `rewards.NAME`, metrics `reward_NAME_mean` and `reward_NAME_std`
  double weight;           ///< default of `rewards.NAME`
  std::string_view title;  ///< title of its curve
  std::string_view range;  ///< range of values, shown next to the title
  bool needs_stage2;       ///< whether the reward is always 0 if the second stage is disabled
  bool may_be_full;  ///< no warning if all trajectories have the same value above 0, because that is the aim
  double (*value)(const RewardInput& input);
  Credit credit = Credit::whole;
  /// Probable causes why it stays the same for many steps; follows "look for:".
  std::string_view stall_causes = "a function that ignores the completion";
};

/// Whether the reward's advantage reaches the tokens of this part, with `objective.credit: parts`.
bool earns_credit(const Reward& reward, CompletionPart part, const RewardConfig& config);

double prediction_reward(const RewardInput& input);
double consistency_reward(const RewardInput& input);
double reasoning_reward(const RewardInput& input);
double format_reward(const RewardInput& input);

/// All rewards, in the order of their columns.
std::span<const Reward> rewards();
/// Column of a reward; its name must be in the table (CHECK).
std::size_t reward_column(std::string_view name);
/// A trajectory's value in a column; 0 if it was not scored, as in supervised fine-tuning.
double reward_of(const Trajectory& trajectory, std::size_t column);
/// The default weights of the table.
std::vector<WeightSchedule> default_reward_weights();
/// Appends a row, for tests. No other code of this process may use rewards at the same time.
void add_reward(const Reward& reward);

}  // namespace biqa
