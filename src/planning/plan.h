// SPDX-License-Identifier: Apache-2.0
// Estimates, before a run starts, what it will need: ranks, memory by part, tokens, operations and time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/roles.h"
#include "config/config.h"
#include "planning/memory_plan.h"

namespace biqa {

/// Of one step, except where it says otherwise. Tokens are upper bounds: every answer as long as it may be.
struct RunPlan {
  RolePlan roles;
  std::int64_t ranks = 0, threads = 0;  ///< threads of each rank
  std::int64_t training_images = 0, evaluation_images = 0, steps = 0;
  std::int64_t images = 0, trajectories = 0;
  std::int64_t image_tokens = 0, prompt_tokens = 0, stage2_prompt_tokens = 0;  ///< of one prompt
  std::int64_t rollout_tokens = 0;                                             ///< generated, both stages
  std::int64_t trained_rows = 0;  ///< tokens through the learner: prompts once per group, and completions
  double vision_flop = 0, rollout_flop = 0, learn_flop = 0;
  /// speed of one rank in matrix products with many rows, from a short measurement
  double batch_flop_per_second = 0;
  double decode_flop_per_second = 0;              ///< of products with one row per running completion
  double rollout_seconds = 0, learn_seconds = 0;  ///< at that rate, split over the ranks of the role
  std::string fullest;                            ///< role of the rank that needs most memory
  MemoryPlan memory;                              ///< of that rank
  std::int64_t node_ranks = 1;                    ///< ranks on a node: what the launcher says, else all
  /// peak memory of the node that needs most; shared weights are counted once
  std::int64_t node_bytes = 0;
  std::int64_t node_shared_bytes = 0;    ///< those weights
  std::vector<std::string> assumptions;  ///< assumptions made because a file does not exist yet
  double step_seconds() const { return rollout_seconds + learn_seconds; }
};

/// Reads the model's configuration, its tokenizer, the manifests and the pictures' headers; no weights. Throws Error as a
/// run would, except that weights and manifests may be missing: the plan then says what it takes instead. `processors`
/// of each rank; 0: those that this process may use, shared by the ranks.
RunPlan make_plan(const Config& config, int ranks, int processors = 0);
/// Readable text, several lines.
std::string describe_plan(const RunPlan& plan);

}  // namespace biqa
