// SPDX-License-Identifier: Apache-2.0
// Assigns the advantages of a step to trajectories and, with `objective.credit: parts`, to tokens.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "config/config.h"
#include "data/token_parts.h"
#include "data/tokenizer.h"
#include "data/trajectory.h"
#include "learner/advantage.h"

namespace biqa {

/// Advantages of a step. With `objective.credit: whole` every token of trajectory i has the advantage
///
///     A_i = normalise(Σ_f w_f r_if)                     f: rewards, w: their weights in this step
///
/// where normalise stands for compute_advantages() with `objective.advantage`. With `parts`, part p has its own
/// advantage, computed in the same way from the rewards that the part earns:
///
///     A_ip = normalise(Σ_{f earns p} w_f r_if)          earns: earns_credit() in reward/table.h
///     A_it = A_ip for a token t of part p               parts_of_tokens() in data/token_parts.h
///     A_it = A_i for all tokens of a completion that has a wrong format
///
/// So A_it is a sum over the rewards of its part, with one divisor for each group and part. If all rewards are earned by
/// all parts, A_ip = A_i. A reward does not change A_ip if the part does not earn it
/// (docs/decisions/0025-credit-by-parts.md).
struct StepAdvantages : Advantages {
  /// A_ip: for each part [trajectories]; empty with `credit: whole`. The inherited `totals` and `values` (A_i) are over
  /// all rewards.
  std::array<std::vector<double>, kCompletionParts> parts;
  // zero_variance of a group: equal rewards stand behind all its A_i, and behind all its A_ip of each trained part.
};

/// Every group has rollout.group_size members and the same step, which decides the weights.
StepAdvantages advantages_of(std::span<const Group> groups, const Config& config);

/// Sets advantage, token_advantages, stage2_advantage and part_advantages of every trajectory. Returns the share of groups without any
/// variance. `end_tokens`: the model's.
double assign_advantages(std::span<Group> groups, const Config& config, const Tokenizer& tokenizer,
                         std::span<const std::int64_t> end_tokens);

}  // namespace biqa
