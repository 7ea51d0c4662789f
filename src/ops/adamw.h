// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) on a range of a flat vector; semantics of
// torch.optim.AdamW.
#pragma once

#include <cstdint>
#include <span>

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
