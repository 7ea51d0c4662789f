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
AdamWFactors<T> adamw_factors(const AdamWStep& step) {
  CHECK_GE(step.step, 1);
  const AdamWConfig& config = step.config;
  const auto power = static_cast<double>(step.step);
  AdamWFactors<T> factors;
  factors.scale = static_cast<T>(step.clip_scale);
  factors.keep = static_cast<T>(1 - step.lr * config.weight_decay);
  factors.share1 = static_cast<T>(1 - config.beta1);
  factors.beta2 = static_cast<T>(config.beta2);
  factors.share2 = static_cast<T>(1 - config.beta2);
  factors.rate = static_cast<T>(step.lr / (1 - std::pow(config.beta1, power)));
  factors.root_correction = static_cast<T>(std::sqrt(1 - std::pow(config.beta2, power)));
  factors.eps = static_cast<T>(config.eps);
  return factors;
}

template <typename T>
void adamw_update(std::span<T> values, std::span<const T> gradient, std::span<T> m, std::span<T> v,
                  const AdamWStep& step) {
  CHECK(gradient.size() == values.size() && m.size() == values.size() && v.size() == values.size());
  const AdamWFactors<T> factors = adamw_factors<T>(step);
  for (std::size_t i = 0; i < values.size(); ++i) {
    adamw_element(gradient[i], factors, values[i], m[i], v[i]);
  }
}

template AdamWFactors<float> adamw_factors(const AdamWStep&);
template AdamWFactors<double> adamw_factors(const AdamWStep&);
template void adamw_update(std::span<float>, std::span<const float>, std::span<float>, std::span<float>,
                           const AdamWStep&);
template void adamw_update(std::span<double>, std::span<const double>, std::span<double>, std::span<double>,
                           const AdamWStep&);

}  // namespace biqa
