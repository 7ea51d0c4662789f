// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) on a range of a flat vector; semantics of
// torch.optim.AdamW.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "core/host_device.h"

namespace biqa {

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
};

/// Arguments of an update besides the tensors.
struct AdamWStep {
  AdamWConfig config;
  double lr = 0;
  double clip_scale = 1;  ///< the gradient is multiplied by it
  std::int64_t step = 1;  ///< counts from 1
};

/// The constants of an update. Each is computed in double and rounded to T.
template <typename T>
struct AdamWFactors {
  T scale, keep, share1, beta2, share2, rate, root_correction, eps;
};
template <typename T>
AdamWFactors<T> adamw_factors(const AdamWStep& step);
extern template AdamWFactors<float> adamw_factors(const AdamWStep&);
extern template AdamWFactors<double> adamw_factors(const AdamWStep&);

/// The update of one element. Host and device code are compiled without contraction, so that both get the same bits.
template <typename T>
BIQA_HOST_DEVICE inline void adamw_element(T gradient, const AdamWFactors<T>& f, T& value, T& m, T& v) {
  const T g = gradient * f.scale;
  m += f.share1 * (g - m);
  v = v * f.beta2 + f.share2 * g * g;
  value = value * f.keep - f.rate * m / (std::sqrt(v) / f.root_correction + f.eps);
}

/// Sum of squares in double, in the order of the elements.
double squared_norm(std::span<const float> gradient);
/// Updates every element: g = clip_scale·gradient, m and v the running moments of g and g², value ← value·(1 -
/// lr·weight_decay) - lr/(1 - beta1^step)·m/(sqrt(v)/sqrt(1 - beta2^step) + eps). All spans have the same length.
/// Instantiated for float (the trainer) and double (checks).
template <typename T>
void adamw_update(std::span<T> values, std::span<const T> gradient, std::span<T> m, std::span<T> v,
                  const AdamWStep& step);

extern template void adamw_update(std::span<float>, std::span<const float>, std::span<float>,
                                  std::span<float>, const AdamWStep&);
extern template void adamw_update(std::span<double>, std::span<const double>, std::span<double>,
                                  std::span<double>, const AdamWStep&);

}  // namespace biqa
