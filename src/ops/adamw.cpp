// SPDX-License-Identifier: Apache-2.0
#include "ops/adamw.h"

#include <glog/logging.h>

#include <cmath>
#include <cstddef>

namespace biqa {

double squared_norm(std::span<const float> gradient) {
  double sum = 0;
  for (const float g : gradient) sum += double{g} * double{g};
  return sum;
}

template <typename T>
void adamw_update(std::span<T> values, std::span<const T> gradient, std::span<T> m, std::span<T> v,
                  const AdamWStep& step) {
  CHECK(gradient.size() == values.size() && m.size() == values.size() && v.size() == values.size());
  CHECK_GE(step.step, 1);
  const AdamWConfig& config = step.config;
  const double lr = step.lr;
  const auto power = static_cast<double>(step.step);
  const auto scale = static_cast<T>(step.clip_scale);
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
                           const AdamWStep&);
template void adamw_update(std::span<double>, std::span<const double>, std::span<double>, std::span<double>,
                           const AdamWStep&);

}  // namespace biqa
