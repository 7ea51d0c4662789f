// SPDX-License-Identifier: Apache-2.0
// The memory of a rank's GPU. The backend says what its passes take (ops/cuda_sizes.h); here stands what is there at the
// same time, in the order of actor/engine.cpp, model/training_pass.cpp and learner/learner.cpp.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

#include "actor/engine.h"
#include "actor/pictures.h"
#include "comm/wait_times.h"
#include "core/bytes_text.h"
#include "core/error.h"
#include "model/kv_cache.h"
#include "model/model_sizes.h"
#include "model/qwen_vl.h"
#include "ops/backends.h"
#include "ops/cuda_sizes.h"
#include "ops/gpu_cards.h"
#include "planning/memory_plan.h"
#include "policy/policy.h"

namespace biqa {
namespace {

constexpr std::int64_t kFloat = sizeof(float);

std::int64_t divided(std::int64_t value, std::int64_t by) {
  return (value + by - 1) / by;
}

/// A micro-batch, with the pages of its cache.
struct MicroBatch : BatchSize {
  std::int64_t cache_pages = 0;  ///< a shared page counts once
};

/// Adds `groups` prompts with `members` completions of `tokens` each.
void add_groups(MicroBatch& batch, std::int64_t groups, std::int64_t prompt, std::int64_t members,
                std::int64_t tokens, const KvLayout& layout) {
  batch.rows += groups * (prompt + members * (tokens - 1));
  batch.outputs += groups * (1 + members * (tokens - 1));
  batch.picks += groups * members * tokens;
  batch.sequences += groups * (1 + members);
  const std::int64_t long_pages = KvCache::pages_for(prompt + tokens, layout);
  const std::int64_t prompt_pages = KvCache::pages_for(prompt, layout);
  batch.pages += groups * (prompt_pages + members * long_pages);
  batch.cache_pages += groups * (prompt_pages + members * (long_pages - prompt / layout.page_tokens));
}

/// The largest micro-batch. Completions that end early let further groups in, until it is full.
MicroBatch largest_micro_batch(const MemoryInputs& in, const KvLayout& layout) {
  MicroBatch batch;
  batch.training = true;
  batch.dropout = in.dropout;
  const std::int64_t group_rows = in.prompt + in.group * (in.new_tokens - 1);
  const std::int64_t images = std::max<std::int64_t>(1, in.learner_images);
  const std::int64_t whole = std::clamp<std::int64_t>(in.micro_batch_tokens / group_rows, 0, images);
  add_groups(batch, whole, in.prompt, in.group, in.new_tokens, layout);
  std::int64_t left = in.micro_batch_tokens - batch.rows;
  if (whole < images) {  // a part of a group; one completion always goes in
    const std::int64_t members = std::clamp<std::int64_t>(
        (left - in.prompt) / std::max<std::int64_t>(1, in.new_tokens - 1), whole == 0 ? 1 : 0, in.group);
    if (members > 0) add_groups(batch, 1, in.prompt, members, in.new_tokens, layout);
    left = in.micro_batch_tokens - batch.rows;
    if (left > 0) {  // shorter completions fill the rest
      batch.rows += left;
      batch.outputs += left;
      batch.picks += left;
      batch.sequences += 1 + in.group;
      const std::int64_t filled = divided(left, layout.page_tokens);
      batch.pages += filled + (1 + in.group) * (1 + in.prompt / layout.page_tokens);
      batch.cache_pages += filled + 2 * (1 + in.group);
    }
  } else if (in.stage2_trained && left > 0) {
    const std::int64_t each = in.stage2_prompt + in.stage2_new - 1;
    const std::int64_t more = std::clamp<std::int64_t>(left / each, 0, in.learner_images * in.group);
    add_groups(batch, more, in.stage2_prompt, 1, in.stage2_new, layout);
  }
  return batch;
}

/// What the learner's passes hold at a time, at most (TrainingPass).
std::int64_t learning_bytes(const MemoryInputs& in, const CudaDecoderSizes& sizes, const KvLayout& layout) {
  const auto c = static_cast<std::int64_t>(size_of(in.dtype));
  const std::int64_t hidden = in.model.text.hidden;
  const MicroBatch batch = largest_micro_batch(in, layout);
  const std::int64_t both = sizes.plan(batch) + batch.cache_pages * layout.page_bytes;  // of one layer
  const std::int64_t states = batch.outputs * hidden * c;
  const std::int64_t d_picked = batch.picks * hidden * kFloat;
  const std::int64_t d_hidden = batch.outputs * hidden * kFloat;
  const CudaDecoderSizes::Training pass = sizes.training(batch, in.recompute);
  const std::int64_t reference =
      in.reference_pass ? states + std::max(sizes.forward(batch), sizes.log_prob(batch.picks, false)) : 0;
  return both + std::max({reference, pass.tape + states + pass.forward,
                          pass.tape + states + d_picked + sizes.log_prob(batch.picks, true),
                          pass.tape + d_picked + d_hidden + batch.picks * kFloat,
                          pass.tape + d_hidden + pass.backward});
}

/// One iteration of the engine: a token of each running sequence, and prompts.
std::int64_t rollout_bytes(const MemoryInputs& in, const CudaDecoderSizes& sizes, const KvLayout& layout,
                           std::int64_t kv_bytes) {
  const std::int64_t pages = kv_bytes / (layout.page_bytes * in.model.text.layers);
  const std::int64_t of_group = Engine::pages_needed(layout, in.prompt, in.group, in.new_tokens);
  // Second stages are short: as many as the step has trajectories may run at once.
  const std::int64_t of_one = Engine::pages_needed(layout, std::max<std::int64_t>(1, in.stage2_prompt), 1,
                                                   std::max<std::int64_t>(1, in.stage2_new));
  const std::int64_t first = std::min(in.images, pages / std::max<std::int64_t>(1, of_group)) * in.group;
  const std::int64_t second =
      in.stage2_prompt > 0 ? std::min(in.images * in.group, pages / std::max<std::int64_t>(1, of_one)) : 0;
  const std::int64_t running = std::max({first, second, std::min(in.evaluation_images, pages)});
  const std::int64_t prefill = std::min(std::max(in.images, in.evaluation_images) * in.prompt,
                                        std::max(Engine::Options().prefill_rows, in.prompt));
  const std::int64_t prompts = divided(prefill, std::max<std::int64_t>(1, in.prompt));
  BatchSize batch;
  batch.rows = running + prefill;
  batch.outputs = running + prompts;
  batch.picks = running + prompts * in.group;
  batch.sequences = running + prompts;
  batch.pages = running * KvCache::pages_for(in.prompt + in.new_tokens, layout) +
                prompts * KvCache::pages_for(in.prompt, layout);
  const std::int64_t states =
      batch.outputs * in.model.text.hidden * static_cast<std::int64_t>(size_of(in.dtype));
  // The pass before has left its tokens.
  return CudaDecoderSizes::tokens(batch.picks) + sizes.plan(batch) + states +
         std::max(sizes.forward(batch), sizes.sample(batch.picks));
}

/// One pass of the vision tower. An image that is larger than a batch is encoded alone.
std::int64_t pictures_bytes(const MemoryInputs& in) {
  const VisionConfig& v = in.model.vision;
  const std::int64_t patches = std::max<std::int64_t>(1, in.patch_rows);
  const std::int64_t images = std::max<std::int64_t>(1, PictureEncoder::kBatchPatches / patches);
  const std::int64_t wanted = std::max<std::int64_t>(1, std::max(in.images, in.learner_images));
  const CudaVisionShape shape{
      v.hidden,    v.intermediate, v.heads, v.merge * v.merge, v.channels * v.temporal * v.patch * v.patch,
      v.out_hidden};
  // The features of each image are copied to the host.
  return cuda_vision_bytes(shape, in.dtype, in.vision_attention, std::min(images, wanted) * patches);
}

}  // namespace

MemoryPlan plan_cuda_memory(const MemoryInputs& inputs) {
  MemoryInputs in = inputs;  // with the shapes that are in memory
  in.model.vision.intermediate = cuda_vision_width(in.model.vision.intermediate, in.dtype);
  const TextConfig& text = in.model.text;
  const LoraLayout adapter(in.model, in.lora);
  const CudaDecoderSizes sizes(decoder_shape(text), in.dtype, adapter.modules());
  const KvLayout layout = kv_layout({in.device, in.dtype, 0}, head_shape(text));
  const std::int64_t image = in.image_tokens * text.hidden * kFloat;
  // The cache goes over its limit by the images of a step before it gives up its oldest.
  const std::int64_t step_images = std::max({in.images, in.learner_images, in.evaluation_images});
  const std::int64_t features = std::min(PolicyOptions().feature_cache_bytes + step_images * image,
                                         std::max(in.distinct_images, step_images) * image);
  const std::int64_t kv = in.actor ? kv_cache_bytes(in) : 0;
  const std::int64_t packed = (in.actor ? 1 : 0) + (in.learner ? 1 : 0) + (in.own_reference ? 1 : 0);
  const std::int64_t shard =
      divided(static_cast<std::int64_t>(adapter.size()), std::max<std::int64_t>(1, in.learners)) * kFloat;
  const std::int64_t whole = shard * std::max<std::int64_t>(1, in.learners);

  MemoryPlan plan;
  plan.held = {{"CUDA context, kernels (assumed)", kCudaContextBytes},
               {"weights", backend_weight_bytes(in.model, in.dtype)},
               {"packed adapters", packed * sizes.adapter()}};
  if (in.learner) {
    // The gradient is whole; its sum, values and moments are divided among the learners.
    plan.held.emplace_back("gradient, optimizer's shard", whole + 4 * shard);
    plan.passing.emplace_back("sums between GPUs", [&] {
      if (in.learners <= 1) return whole;
      const auto block = static_cast<std::int64_t>(reduce_block(static_cast<std::size_t>(in.learners)));
      return std::max(whole, (in.learners - 1) * std::min(shard, block * kFloat));
    }());
  }
  plan.held.emplace_back("KV cache", kv);
  plan.on_host.emplace_back("image features", features);
  plan.passing.emplace_back("an adapter that is packed", sizes.adapter() + sizes.packing());
  plan.passing.emplace_back("images of a step", pictures_bytes(in));
  if (in.actor) plan.passing.emplace_back("rollout", rollout_bytes(in, sizes, layout, kv));
  if (in.learner) plan.passing.emplace_back("learning (a micro-batch)", learning_bytes(in, sizes, layout));
  return plan;
}

std::optional<GpuShortage> gpu_shortage(const MemoryPlan& plan, const DeviceFacts& gpu,
                                        const std::filesystem::path& model) {
  // CUDA's context is there already, and no longer free.
  const std::int64_t needed = plan.peak() - kCudaContextBytes;
  if (needed <= gpu.free_bytes) return std::nullopt;
  const auto held = [&](const char* name) {
    const auto part = std::find_if(plan.held.begin(), plan.held.end(),
                                   [name](const auto& entry) { return entry.first == name; });
    return part == plan.held.end() ? 0 : part->second;
  };
  const std::string there =
      fmt::format("{} of its {} are free", bytes_text(gpu.free_bytes), bytes_text(gpu.total_bytes));
  const std::int64_t fixed = plan.fixed_bytes() - kCudaContextBytes;
  if (fixed > gpu.free_bytes) {
    return GpuShortage{
        true, fmt::format("cannot train {} on GPU {}: weights, adapter and optimizer alone need {} (weights "
                          "{}), but only {}; biqa cannot split a model over several GPUs yet: use a smaller "
                          "model or a GPU with more memory, or end other programs on the GPU (nvidia-smi)",
                          model.string(), gpu.name, bytes_text(fixed), bytes_text(held("weights")), there)};
  }
  const auto largest = std::max_element(plan.passing.begin(), plan.passing.end(),
                                        [](const auto& a, const auto& b) { return a.second < b.second; });
  return GpuShortage{
      false,
      fmt::format(
          "cannot train {} on GPU {}: the run needs up to {} (weights {}, KV cache {}, {} {}), but only {}; "
          "lower rollout.kv_memory, objective.micro_batch_tokens or lora.rank, or set "
          "objective.recompute_layers: true (--dry-run prints all parts)",
          model.string(), gpu.name, bytes_text(needed), bytes_text(held("weights")),
          bytes_text(held("KV cache")), largest->first, bytes_text(largest->second), there)};
}

void require_gpu_memory(const MemoryPlan& plan, const DeviceFacts& gpu, const std::filesystem::path& model) {
  if (const auto shortage = gpu_shortage(plan, gpu, model)) fail("{}", shortage->text);
}

std::optional<GpuShortage> planned_shortage(const MemoryPlan& plan, const std::string& card,
                                            const std::filesystem::path& model) {
  const GpuCard* known = find_gpu_card(card);
  if (known == nullptr) return std::nullopt;
  const auto bytes = static_cast<std::int64_t>(known->memory * 0x1p30);
  return gpu_shortage(plan, {card, bytes, bytes - kCudaContextBytes}, model);
}

}  // namespace biqa
