// SPDX-License-Identifier: Apache-2.0
#include "reward/closeness.h"

#include <cmath>
#include <numbers>

namespace biqa {

double cosine_reward(double distance, double tolerance) {
  if (!(distance < tolerance)) return 0;
  return 0.5 * (1 + std::cos(std::numbers::pi * distance / tolerance));
}

double closeness(const std::optional<double>& rating, double score, const RewardConfig& config) {
  if (!rating) return 0;
  const double distance = std::abs(*rating - score);
  if (config.prediction_shape == PredictionShape::cosine) return cosine_reward(distance, config.tolerance);
  return distance < config.tolerance ? 1 : 0;
}

}  // namespace biqa
