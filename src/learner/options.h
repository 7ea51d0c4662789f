// SPDX-License-Identifier: Apache-2.0
// Options of the learner, with their defaults. The configuration takes its defaults from here.
#pragma once

#include <cstdint>

#include "learner/adamw.h"
#include "learner/objective.h"
#include "model/lora.h"
#include "model/training_pass.h"

namespace biqa {

struct LearnerOptions {
  ObjectiveConfig objective;
  AdamWConfig adamw;
  double max_grad_norm = 1.0;
  float temperature = PassOptions{}.temperature;
  double longest_allowed = 0;  ///< completion tokens; for dr_grpo
  std::int64_t micro_batch_tokens = 8192;
  bool recompute_layers = PassOptions{}.recompute_layers;
  double dropout = LoraSpec{}.dropout;
  std::uint64_t seed = 0;
};

}  // namespace biqa
