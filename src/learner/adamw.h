// SPDX-License-Identifier: Apache-2.0
// The learning-rate schedules and the clipping of the gradient by its global norm; semantics of
// torch.nn.utils.clip_grad_norm_ and transformers' schedules. The update itself is ops/adamw.h.
#pragma once

#include <cstdint>

#include "ops/adamw.h"

namespace biqa {

enum class Schedule { linear, cosine, constant };

/// Rate of update `step` (the first is 0) of `total`: base·step/warmup during the warm-up, then from base
/// down to 0 at `total` along a line or half a cosine, or constant.
double learning_rate(Schedule schedule, std::int64_t warmup, std::int64_t step, std::int64_t total,
                     double base);

/// Factor that brings a gradient of this norm to at most max_norm: min(1, max_norm/(norm + 1e-6)). 1 for
/// max_norm <= 0 (no clipping). The norm must be finite (CHECK): an update from anything else would destroy
/// the adapter.
double clip_scale(double norm, double max_norm);

}  // namespace biqa
