// SPDX-License-Identifier: Apache-2.0
#include "learner/adamw.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace biqa {

double learning_rate(Schedule schedule, std::int64_t warmup, std::int64_t step, std::int64_t total,
                     double base) {
  if (step < warmup)
    return base * static_cast<double>(step) / static_cast<double>(std::max<std::int64_t>(warmup, 1));
  if (schedule == Schedule::constant) return base;
  const double length = static_cast<double>(std::max<std::int64_t>(total - warmup, 1));
  const double left = std::clamp(static_cast<double>(total - step) / length, 0.0, 1.0);
  if (schedule == Schedule::linear) return base * left;
  return base * 0.5 * (1 + std::cos(std::numbers::pi * (1 - left)));
}

double clip_scale(double norm, double max_norm) {
  CHECK(std::isfinite(norm)) << "gradient norm " << norm;
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace biqa
