// SPDX-License-Identifier: Apache-2.0
// Computes the memory of one rank by part, from shapes only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/config.h"
#include "model/lora.h"
#include "ops/cuda/device.h"
#include "tensor/dtype.h"

namespace biqa {

/// Memory parts: (name, bytes). MemoryPlan groups them by how long they are held.
using MemoryParts = std::vector<std::pair<std::string, std::int64_t>>;

/// The inputs that determine the memory of one rank.
struct MemoryInputs {
  ModelConfig model;
  std::string device = "cpu";  ///< cpu: the host's memory is planned. cuda: that of the rank's GPU
  DType dtype = DType::f32;
  VisionAttentionBy vision_attention = VisionAttentionBy::own;
  LoraSpec lora;
  std::int64_t file_bytes = 0;     ///< of the checkpoint's tensors
  std::int64_t process_bytes = 0;  ///< of program, tokenizer and manifests
  /// of a reward rank's sentence encoder, in f32; it lies in the host's memory on every device, so cuda does not count it
  std::int64_t sentence_encoder_bytes = 0;
  bool actor = true, learner = true, own_reference = false, reference_pass = true;
  bool recompute = false, dropout = false, stage2_trained = false;
  int threads = 1;
  std::int64_t kv_limit = 0;  ///< bytes
  /// tokens in one prompt, one second-stage prompt, one image
  std::int64_t prompt = 0, stage2_prompt = 0, image_tokens = 0;
  /// tokens of a second-stage prompt with the longest allowed caption, and of the longest second-stage completion
  std::int64_t evaluation_stage2_prompt = 0, stage2_new = 0;
  std::int64_t patch_rows = 0;  ///< of one image
  /// images per step on this rank; completions per image; tokens per completion
  std::int64_t images = 0, group = 0, new_tokens = 0;
  /// images of the largest evaluation set that this rank processes at the same time
  std::int64_t evaluation_images = 0;
  std::int64_t distinct_images = 0;  ///< number of images whose features are cached
  std::int64_t learner_images = 0, micro_batch_tokens = 0;
  std::int64_t learners = 1;  ///< ranks that divide the optimizer's state
};
struct MemoryPlan {
  MemoryParts shared;     ///< from the first step to the last, once for all ranks of a node
  MemoryParts held;       ///< from the first step to the last
  MemoryParts passing;    ///< needed one after another, so only the largest counts
  MemoryParts on_host{};  ///< cuda: what this rank keeps in the host's memory; not part of any sum here
  std::int64_t shared_bytes() const;
  /// Bytes that settings of the rollout and of the learner's passes do not change: context, weights, adapters and
  /// optimizer.
  std::int64_t fixed_bytes() const;
  /// Peak memory of this rank, including all shared parts.
  std::int64_t peak() const;
};
/// Completions of one group that a learner takes into a pass together with their prompt. A larger group is divided, and
/// every piece computes the prompt again.
std::int64_t members_of_pass(const MemoryInputs& inputs);
/// Computes the plan from shapes only.
MemoryPlan plan_memory(const MemoryInputs& inputs);

/// Bytes of the KV cache of a rollout: the pages of all sequences that it may hold at once, but at most kv_limit.
std::int64_t kv_cache_bytes(const MemoryInputs& inputs);

/// GPU memory of a process before its first tensor: CUDA's context, and the kernels of this program and of cuBLASLt.
/// Assumed, not measured. cuBLASLt itself gets no workspace.
inline constexpr std::int64_t kCudaContextBytes = std::int64_t{1} << 30;
/// plan_memory() for device cuda. Gaps of CUDA's memory pool are not counted.
MemoryPlan plan_cuda_memory(const MemoryInputs& inputs);
/// Why a plan does not fit on a GPU.
struct GpuShortage {
  bool several =
      false;         ///< weights, adapter and optimizer alone are too large: lowering settings does not help
  std::string text;  ///< what is needed, what is there, and what to lower
};
/// nullopt: the plan fits. `gpu`: its free memory after CUDA's context was created, and before the first tensor.
std::optional<GpuShortage> gpu_shortage(const MemoryPlan& plan, const DeviceFacts& gpu,
                                        const std::filesystem::path& model);
/// The same for a card of this name (ops/gpu_cards.h) that no other process uses. This machine need not have one.
/// nullopt also for an unknown card.
std::optional<GpuShortage> planned_shortage(const MemoryPlan& plan, const std::string& card,
                                            const std::filesystem::path& model);
/// Throws Error if a rank's GPU cannot hold its plan: what is needed, what is there, and what to lower. `gpu`: as in
/// gpu_shortage().
void require_gpu_memory(const MemoryPlan& plan, const DeviceFacts& gpu, const std::filesystem::path& model);

}  // namespace biqa
