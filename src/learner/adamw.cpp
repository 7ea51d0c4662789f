// SPDX-License-Identifier: Apache-2.0
#include "learner/adamw.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
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

double squared_norm(std::span<const float> gradient) {
  double sum = 0;
  for (const float g : gradient) sum += double{g} * double{g};
  return sum;
}

double clip_scale(double norm, double max_norm) {
  CHECK(std::isfinite(norm)) << "gradient norm " << norm;
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

template <typename T>
void adamw_update(std::span<T> values, std::span<const T> gradient, std::span<T> m, std::span<T> v,
                  const AdamWConfig& config, double lr, double clip_scale, std::int64_t step) {
  CHECK(gradient.size() == values.size() && m.size() == values.size() && v.size() == values.size());
  CHECK_GE(step, 1);
  const auto power = static_cast<double>(step);
  const auto scale = static_cast<T>(clip_scale);
  const auto keep = static_cast<T>(1 - lr * config.weight_decay);
  const auto share1 = static_cast<T>(1 - config.beta1);
  const auto beta2 = static_cast<T>(config.beta2);
  const auto share2 = static_cast<T>(1 - config.beta2);
  const auto rate = static_cast<T>(lr / (1 - std::pow(config.beta1, power)));
  const auto root_correction = static_cast<T>(std::sqrt(1 - std::pow(config.beta2, power)));
  const auto eps = static_cast<T>(config.eps);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const T g = gradient[i] * scale;
    m[i] += share1 * (g - m[i]);
    v[i] = v[i] * beta2 + share2 * g * g;
    values[i] = values[i] * keep - rate * m[i] / (std::sqrt(v[i]) / root_correction + eps);
  }
}

template void adamw_update(std::span<float>, std::span<const float>, std::span<float>, std::span<float>,
                           const AdamWConfig&, double, double, std::int64_t);
template void adamw_update(std::span<double>, std::span<const double>, std::span<double>, std::span<double>,
                           const AdamWConfig&, double, double, std::int64_t);

}  // namespace biqa
