// SPDX-License-Identifier: Apache-2.0
#include "learner/losses.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/names.h"
#include "learner/objective.h"

namespace biqa {
namespace {

// ---------------------------------------------------------------------------------------------- weights of tokens

double share_of_sequences(double sequence_tokens, const BatchTotals& totals) {
  return 1 / (totals.sequences * std::max(sequence_tokens, 1.0));
}
double share_of_longest(double /*sequence_tokens*/, const BatchTotals& totals) {
  return 1 / (totals.sequences * totals.longest_allowed);
}
double share_of_tokens(double /*sequence_tokens*/, const BatchTotals& totals) {
  return 1 / std::max(totals.tokens, 1.0);
}

// ---------------------------------------------------------------------------------------------- terms

LossTerm clipped(const ObjectiveConfig& config, double /*logp*/, double ratio, double advantage) {
  const double capped = config.ratio_cap ? std::min(ratio, *config.ratio_cap) : ratio;
  const double within = std::clamp(ratio, 1 - config.clip_low, 1 + config.clip_high);
  const double plain = capped * advantage;
  const double bounded = within * advantage;
  // If both terms are equal, the derivative of their minimum is the mean of both derivatives, as in PyTorch.
  const double plain_slope = capped == ratio ? 1 : 0;
  const double bounded_slope = within == ratio ? 1 : 0;
  const double slope = plain < bounded   ? plain_slope
                       : plain > bounded ? bounded_slope
                                         : 0.5 * (plain_slope + bounded_slope);
  return {-std::min(plain, bounded), 0, -advantage * slope};
}

LossTerm cispo_term(const ObjectiveConfig& config, double logp, double ratio, double advantage) {
  const double factor = std::min(ratio, config.clip_high) * advantage;
  return {-factor * logp, -factor, 0};
}

LossTerm sapo_term(const ObjectiveConfig& /*config*/, double /*logp*/, double ratio, double advantage) {
  const double heat = advantage > 0 ? 1.0 : 1.05;
  const double gate = 1 / (1 + std::exp(-heat * (ratio - 1)));
  return {-advantage * gate * 4 / heat, 0, -advantage * 4 * gate * (1 - gate)};
}

LossTerm sft_term(const ObjectiveConfig& /*config*/, double logp, double /*ratio*/, double /*advantage*/) {
  return {-logp, -1, 0};
}

// ---------------------------------------------------------------------------------------------- bounds of the clip

ClipBounds both_bounds(const ObjectiveConfig& config) {
  return {1 - config.clip_low, 1 + config.clip_high};
}
ClipBounds cap(const ObjectiveConfig& config) {
  return {.high = config.clip_high};
}
ClipBounds no_bounds(const ObjectiveConfig& /*config*/) {
  return {};
}

constexpr std::array kLosses{
    LossRow{.name = "grpo",
            .value = Loss::grpo,
            .weight = share_of_sequences,
            .term = clipped,
            .clip = both_bounds},
    LossRow{.name = "dr_grpo",
            .value = Loss::dr_grpo,
            .weight = share_of_longest,
            .term = clipped,
            .clip = both_bounds,
            .needs_longest = true},
    LossRow{.name = "dapo",
            .value = Loss::dapo,
            .weight = share_of_tokens,
            .term = clipped,
            .clip = both_bounds,
            .clip_high = 0.28,
            .drop_zero_variance = true,
            .mask_truncated = true,
            .refill_rounds = 3},
    LossRow{
        .name = "bnpo", .value = Loss::bnpo, .weight = share_of_tokens, .term = clipped, .clip = both_bounds},
    LossRow{.name = "gspo",
            .value = Loss::gspo,
            .weight = share_of_sequences,
            .term = clipped,
            .clip = both_bounds,
            .one_ratio_per_sequence = true},
    LossRow{.name = "cispo",
            .value = Loss::cispo,
            .weight = share_of_tokens,
            .term = cispo_term,
            .clip = cap,
            .clip_high = 5},
    LossRow{.name = "sapo",
            .value = Loss::sapo,
            .weight = share_of_sequences,
            .term = sapo_term,
            .clip = no_bounds},
    LossRow{.name = "sft",
            .value = Loss::sft,
            .weight = share_of_tokens,
            .term = sft_term,
            .clip = no_bounds,
            .imitates = true},
};

}  // namespace

std::span<const LossRow> losses() {
  return kLosses;
}

const LossRow& row_of(Loss loss) {
  return row_of(kLosses, loss);
}

}  // namespace biqa
