// SPDX-License-Identifier: Apache-2.0
// Rewards for ratings that are close to the human score.
#pragma once

#include <optional>

#include "reward/rewards.h"

namespace biqa {

/// ½(1 + cos(π d/t)) for 0 <= d < t, otherwise 0 (also for NaN).
double cosine_reward(double distance, double tolerance);

/// Reward in 0..1 with the configured shape and tolerance; 0 without a rating.
double closeness(const std::optional<double>& rating, double score, const RewardConfig& config);

}  // namespace biqa
