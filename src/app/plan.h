// SPDX-License-Identifier: Apache-2.0
// What a run will take before it starts: ranks, memory by part, tokens, operations and time.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "app/config.h"
#include "comm/roles.h"

namespace biqa {

/// Upper figures of one rank and one step, from shapes and configuration alone; nothing is loaded but headers and one
/// picture's size.
struct RunPlan {
  RolePlan roles;
  std::int64_t ranks = 0, threads = 0;
  std::int64_t training_images = 0, evaluation_images = 0, steps = 0;
  std::int64_t prompt_tokens = 0, stage2_prompt_tokens = 0;                 ///< of one prompt
  std::int64_t rollout_tokens = 0, trained_rows = 0;                        ///< of one step
  double vision_flop = 0, rollout_flop = 0, learn_flop = 0;                 ///< of one step
  double machine_flop_per_second = 0;                                       ///< measured for a moment
  std::vector<std::pair<std::string, std::int64_t>> memory;                 ///< bytes by part, of the fullest rank
  std::int64_t memory_bytes() const;
  double step_seconds() const;
};

RunPlan make_plan(const Config& config, int ranks);
/// Readable text, several lines.
std::string describe_plan(const RunPlan& plan);

}  // namespace biqa
