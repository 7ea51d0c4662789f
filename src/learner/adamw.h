// SPDX-License-Identifier: Apache-2.0
// Learning-rate schedules and gradient clipping by the global norm, as in transformers' schedules and
// torch.nn.utils.clip_grad_norm_. ops/adamw.h has the update itself.
#pragma once

#include <cstdint>

#include "ops/adamw.h"

namespace biqa {

enum class Schedule { linear, cosine, constant };

/// Learning rate of update `step` (0 … total - 1). During the warm-up it is base·step/warmup. Then it falls from base
/// to 0 at `total` along a line or half a cosine, or stays constant.
double learning_rate(Schedule schedule, std::int64_t warmup, std::int64_t step, std::int64_t total,
                     double base);

/// Factor that reduces a gradient's norm to at most max_norm: min(1, max_norm/(norm + 1e-6)). 1 for max_norm <= 0 (no
/// clipping). The norm must be finite (CHECK), because any other value would destroy the adapter.
double clip_scale(double norm, double max_norm);

}  // namespace biqa
