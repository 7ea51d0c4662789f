// SPDX-License-Identifier: Apache-2.0
// The memory of one rank by part, from shapes alone.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "model/config.h"
#include "model/lora.h"
#include "tensor/dtype.h"

namespace biqa {

/// Memory parts: (name, bytes). MemoryPlan groups them by how long they are held.
using MemoryParts = std::vector<std::pair<std::string, std::int64_t>>;

/// The inputs that determine the memory of one rank.
struct MemoryInputs {
  ModelConfig model;
  DType dtype = DType::f32;
  LoraSpec lora;
  std::int64_t file_bytes = 0;     ///< of the checkpoint's tensors
  std::int64_t process_bytes = 0;  ///< of program, tokenizer and manifests
  bool actor = true, learner = true, own_reference = false, reference_pass = true;
  bool recompute = false, dropout = false, stage2_trained = false;
  int threads = 1;
  std::int64_t kv_limit = 0;  ///< bytes
  /// tokens in one prompt, one stage-2 prompt, one image
  std::int64_t prompt = 0, stage2_prompt = 0, image_tokens = 0;
  /// tokens of a stage-2 prompt with the longest allowed caption, and of the longest stage-2 answer
  std::int64_t evaluation_stage2_prompt = 0, stage2_new = 0;
  std::int64_t patch_rows = 0;  ///< of one picture
  /// images per step on this rank; completions per image; tokens per completion
  std::int64_t images = 0, group = 0, new_tokens = 0;
  /// images of the largest evaluation set that this rank processes at the same time
  std::int64_t evaluation_images = 0;
  std::int64_t distinct_images = 0;  ///< whose features are kept
  std::int64_t learner_images = 0, micro_batch_tokens = 0;
};
struct MemoryPlan {
  MemoryParts shared;   ///< from the first step to the last, once for all ranks of a node
  MemoryParts held;     ///< from the first step to the last
  MemoryParts passing;  ///< needed one after another, so only the largest counts
  std::int64_t shared_bytes() const;
  /// Peak memory of this rank, including the whole of the shared parts.
  std::int64_t peak() const;
};
/// From shapes alone.
MemoryPlan plan_memory(const MemoryInputs& inputs);

}  // namespace biqa
