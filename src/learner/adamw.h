// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) on a range of the flat
// adapter, its learning-rate schedules and the clipping of the gradient by its global norm; semantics of
// torch.optim.AdamW, torch.nn.utils.clip_grad_norm_ and transformers' schedules.
#pragma once

#include <cstdint>
#include <span>

namespace biqa {

enum class Schedule { linear, cosine, constant };

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
};

/// Rate of update `step` (the first is 0) of `total`: base·step/warmup during the warm-up, then from base
/// down to 0 at `total` along a line or half a cosine, or constant.
double learning_rate(Schedule schedule, std::int64_t warmup, std::int64_t step, std::int64_t total,
                     double base);

/// Sum of squares in double, in the order of the elements.
double squared_norm(std::span<const float> gradient);
/// Factor that brings a gradient of this norm to at most max_norm: min(1, max_norm/(norm + 1e-6)). 1 for
/// max_norm <= 0 (no clipping). The norm must be finite (CHECK): an update from anything else would destroy
/// the adapter.
double clip_scale(double norm, double max_norm);

/// One update of every element by itself: g = clip_scale·gradient, m and v the running moments of g and g²,
/// value ← value·(1 - lr·weight_decay) - lr/(1 - beta1^step)·m/(sqrt(v)/sqrt(1 - beta2^step) + eps).
/// `step` counts from 1; all spans of one length. Instantiated for float (the trainer) and double (checks).
template <typename T>
void adamw_update(std::span<T> values, std::span<const T> gradient, std::span<T> m, std::span<T> v,
                  const AdamWConfig& config, double lr, double clip_scale, std::int64_t step);

extern template void adamw_update(std::span<float>, std::span<const float>, std::span<float>,
                                  std::span<float>, const AdamWConfig&, double, double, std::int64_t);
extern template void adamw_update(std::span<double>, std::span<const double>, std::span<double>,
                                  std::span<double>, const AdamWConfig&, double, double, std::int64_t);

}  // namespace biqa
