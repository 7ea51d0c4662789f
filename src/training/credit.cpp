// SPDX-License-Identifier: Apache-2.0
#include "training/credit.h"

#include <algorithm>
#include <utility>

namespace biqa {
namespace {

/// The weights of the rewards that a part earns; the other rewards have weight 0.
std::vector<double> weights_of_part(CompletionPart part, std::vector<double> weights,
                                    const RewardConfig& config) {
  for (std::size_t f = 0; f < weights.size(); ++f) {
    if (!earns_credit(rewards()[f], part, config)) weights[f] = 0;
  }
  return weights;
}

/// Without advantages of parts every token has the trajectory's.
void assign(Trajectory& t, const StepAdvantages& advantages, std::size_t index,
            std::span<const CompletionPart> parts) {
  const auto of = [&](CompletionPart part) {
    return advantages.parts[static_cast<std::size_t>(part)][index];
  };
  t.advantage = t.stage2_advantage = advantages.values[index];
  t.token_advantages.clear();
  t.part_advantages.reset();
  if (advantages.parts.front().empty()) return;
  t.stage2_advantage = of(CompletionPart::second_stage);
  t.token_advantages.assign(t.completion_ids.size(), static_cast<float>(t.advantage));
  if (parts.empty()) return;
  t.part_advantages.emplace();
  for (std::size_t p = 0; p < kCompletionParts; ++p) (*t.part_advantages)[p] = advantages.parts[p][index];
  for (std::size_t i = 0; i < parts.size(); ++i) t.token_advantages[i] = static_cast<float>(of(parts[i]));
}

}  // namespace

StepAdvantages advantages_of(std::span<const Group> groups, const Config& config) {
  std::vector<double> columns;
  for (const Group& group : groups) {
    for (const Trajectory& t : group.members) {
      for (std::size_t i = 0; i < rewards().size(); ++i) columns.push_back(reward_of(t, i));
    }
  }
  const std::vector<double> weights =
      weights_at(config.rewards.weights, groups.empty() ? 0 : groups.front().step);
  const auto computed = [&](const std::vector<double>& used) {
    return compute_advantages(columns, used, static_cast<std::size_t>(config.rollout.group_size),
                              config.objective.advantage);
  };
  StepAdvantages result{computed(weights), {}};
  if (config.objective.credit == CreditAssignment::whole) return result;
  for (const auto& [name, part] : kCompletionPartNames) {
    Advantages own = computed(weights_of_part(part, weights, config.rewards));
    result.parts[static_cast<std::size_t>(part)] = std::move(own.values);
    if (part == CompletionPart::second_stage && !config.stage2.train) continue;
    for (std::size_t g = 0; g < groups.size(); ++g)
      result.zero_variance[g] = result.zero_variance[g] && own.zero_variance[g];
  }
  if (!groups.empty()) {
    const auto without = std::count(result.zero_variance.begin(), result.zero_variance.end(), true);
    result.zero_variance_fraction = static_cast<double>(without) / static_cast<double>(groups.size());
  }
  return result;
}

double assign_advantages(std::span<Group> groups, const Config& config, const Tokenizer& tokenizer,
                         std::span<const std::int64_t> end_tokens) {
  const StepAdvantages advantages = advantages_of(groups, config);
  std::size_t next = 0;
  for (Group& group : groups) {
    for (Trajectory& t : group.members) {
      std::vector<CompletionPart> parts;
      if (config.objective.credit == CreditAssignment::parts)
        parts = parts_of_tokens(tokenizer, config.prompts.texts.profile, end_tokens, t.completion_ids);
      assign(t, advantages, next++, parts);
    }
  }
  return advantages.zero_variance_fraction;
}

}  // namespace biqa
