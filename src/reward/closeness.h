// SPDX-License-Identifier: Apache-2.0
// How close a rating comes to the human score, as a reward.
#pragma once

#include <optional>

#include "reward/rewards.h"

namespace biqa {

/// ½(1 + cos(π d/t)) for 0 <= d < t, else 0 (also for NaN).
double cosine_reward(double distance, double tolerance);

/// On 0..1 by the configured shape and tolerance; 0 without a rating.
double closeness(const std::optional<double>& rating, double score, const RewardConfig& config);

}  // namespace biqa
