// SPDX-License-Identifier: Apache-2.0
// What a run will take before it starts: ranks, memory by part, tokens, operations and time.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "comm/roles.h"
#include "config/config.h"
#include "model/config.h"

namespace biqa {

/// Bytes by part, and how long they are held.
using MemoryParts = std::vector<std::pair<std::string, std::int64_t>>;

/// What the memory of one rank follows from.
struct MemoryInputs {
  ModelConfig model;
  DType dtype = DType::f32;
  LoraSpec lora;
  std::int64_t file_bytes = 0;     ///< of the checkpoint's tensors
  std::int64_t process_bytes = 0;  ///< of program, tokenizer and manifests
  bool actor = true, learner = true, own_reference = false, reference_pass = true;
  bool recompute = false, dropout = false, stage2_trained = false;
  int threads = 1;
  std::int64_t kv_limit = 0;                                     ///< bytes
  std::int64_t prompt = 0, stage2_prompt = 0, image_tokens = 0;  ///< tokens of one of them
  std::int64_t evaluation_stage2_prompt = 0, stage2_new = 0;     ///< the same with answers as long as allowed
  std::int64_t patch_rows = 0;                                   ///< of one picture
  std::int64_t images = 0, group = 0,
               new_tokens = 0;         ///< of this rank and step; completions of an image; tokens of one
  std::int64_t evaluation_images = 0;  ///< under way on this rank, of the largest set
  std::int64_t distinct_images = 0;    ///< whose features are kept
  std::int64_t learner_images = 0, micro_batch_tokens = 0;
};
struct MemoryPlan {
  MemoryParts shared;   ///< from the first step to the last, once for all ranks of a node
  MemoryParts held;     ///< from the first step to the last
  MemoryParts passing;  ///< one after the other: the largest counts
  std::int64_t shared_bytes() const;
  /// Of this rank alone, the shared parts included.
  std::int64_t peak() const;
};
/// From shapes alone.
MemoryPlan plan_memory(const MemoryInputs& inputs);

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
  double batch_flop_per_second = 0;   ///< of one rank's products of many rows, measured for a moment
  double decode_flop_per_second = 0;  ///< of products with one row per running completion
  double rollout_seconds = 0, learn_seconds = 0;  ///< at that rate, split over the ranks of the role
  std::string fullest;                            ///< role of the rank that needs most memory
  MemoryPlan memory;                              ///< of that rank
  std::int64_t node_ranks = 1;                    ///< ranks on a node: what the launcher says, else all
  std::int64_t node_bytes = 0;                    ///< peak of the node that needs most, the weights once
  std::int64_t node_shared_bytes = 0;             ///< those weights
  std::vector<std::string> assumptions;           ///< about what is not there yet
  double step_seconds() const { return rollout_seconds + learn_seconds; }
};

/// Reads the model's configuration, its tokenizer, the manifests and the pictures' headers; no weights. Throws Error as a
/// run would, except that weights and manifests may be missing: the plan then says what it takes instead. `processors`
/// of each rank; 0: those that this process may use, shared by the ranks.
RunPlan make_plan(const Config& config, int ranks, int processors = 0);
/// Readable text, several lines.
std::string describe_plan(const RunPlan& plan);

}  // namespace biqa
