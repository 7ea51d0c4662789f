// SPDX-License-Identifier: Apache-2.0
#include "planning/memory_plan.h"

#include <algorithm>

#include "actor/engine.h"
#include "actor/pictures.h"
#include "model/kv_cache.h"
#include "model/model_sizes.h"
#include "ops/backends.h"
#include "policy/policy.h"

namespace biqa {
namespace {

constexpr std::int64_t kFloat = sizeof(float);
/// Memory of oneDNN's generated code and scratch and of gaps in the heap; measured with bench/plan_memory.sh.
constexpr std::int64_t kLibraryBytes = std::int64_t{14} << 20;
/// Freed and used blocks together may exceed the most that was in use by one part in so many (tensor/tensor.cpp).
constexpr std::int64_t kKeptShare = 16;

std::int64_t round_up(std::int64_t value, std::int64_t to) {
  return (value + to - 1) / to * to;
}

std::int64_t bytes_in(const MemoryParts& parts) {
  std::int64_t sum = 0;
  for (const auto& [name, bytes] : parts) sum += bytes;
  return sum;
}

/// A learner's rows if a group's prompt is packed once per micro-batch.
struct LearnerRows {
  std::int64_t rows = 0, outputs = 0, prompts = 0;
};
LearnerRows micro_batch_rows(const MemoryInputs& in) {
  const std::int64_t completion = in.new_tokens - 1;
  const std::int64_t whole_group = in.prompt + in.group * completion;
  LearnerRows batch;
  if (whole_group <= in.micro_batch_tokens) {
    batch.prompts = std::clamp<std::int64_t>(in.micro_batch_tokens / whole_group, 1,
                                             std::max<std::int64_t>(1, in.learner_images));
    batch.rows = batch.prompts * whole_group;
    batch.outputs = batch.prompts * (1 + in.group * completion);
    if (in.stage2_trained) {
      const std::int64_t each = in.stage2_prompt + in.stage2_new - 1;
      const std::int64_t more = std::clamp<std::int64_t>((in.micro_batch_tokens - batch.rows) / each, 0,
                                                         in.learner_images * in.group);
      batch.rows += more * each;
      batch.outputs += more * in.stage2_new;
    }
  } else {
    const std::int64_t members = members_of_pass(in);
    batch = {in.prompt + members * completion, 1 + members * completion, 1};
  }
  return batch;
}

std::int64_t logit_bytes(const TextConfig& text, std::int64_t rows) {
  return std::min(logit_rows(text.vocab), rows) * text.vocab * kFloat;
}

/// One layer of a forward pass without tape, with all its tensors at once.
std::int64_t forward_row_bytes(const Widths& w, std::int64_t c) {
  return kFloat * (w.hidden + w.q + 2 * w.kv + 2 * w.mlp) + c * (2 * w.hidden + w.q + w.mlp);
}

std::int64_t tape_row_bytes(const Widths& w, std::int64_t c, std::int64_t heads, std::int64_t ranks) {
  return kFloat * (w.q + 2 * w.kv + heads + w.hidden + 2 * w.mlp + ranks) + c * w.q;
}

std::int64_t backward_row_bytes(const Widths& w, std::int64_t c) {
  const std::int64_t mlp = kFloat * (w.mlp + w.hidden) + c * (w.mlp + w.hidden + 2 * w.mlp + w.hidden);
  const std::int64_t attention =
      kFloat * (w.q + w.q + 2 * w.kv + w.hidden) + c * (w.hidden + w.q + 2 * w.kv + w.hidden);
  return kFloat * w.hidden + std::max(mlp, attention);
}

/// An adapter packed for one of its users. A and B lie there as they are and transposed, with their ranks padded to 16. For
/// each input, all A of its projections also lie side by side. The layout for tile registers takes about the same.
std::int64_t packed_adapter_bytes(const LoraLayout& layout) {
  std::int64_t floats = 0;
  for (const LoraModule& module : layout.modules()) {
    const std::int64_t padded = round_up(module.rank, 16);
    floats += module.in * (2 * padded + module.rank) + module.out * (padded + module.rank);
  }
  return kFloat * floats;
}

/// What each thread keeps.
std::int64_t thread_bytes(const MemoryInputs& in) {
  const TextConfig& text = in.model.text;
  const std::int64_t tokens =
      std::max(in.prompt + in.new_tokens, in.stage2_trained ? in.stage2_prompt + in.stage2_new : 0);
  return std::max(in.actor ? sampling_thread_bytes(text.vocab) : 0,
                  in.learner ? backward_thread_bytes(head_shape(text), tokens) : 0);
}

std::int64_t vision_bytes(const MemoryInputs& in, std::int64_t images) {
  const VisionConfig& v = in.model.vision;
  const auto c = static_cast<std::int64_t>(size_of(in.dtype));
  const std::int64_t pixels = v.channels * v.temporal * v.patch * v.patch;
  // Images are read until there are enough rows, so one batch may exceed this number by one image.
  const std::int64_t rows =
      std::min(images * in.patch_rows,
               round_up(PictureEncoder::kBatchPatches, std::max<std::int64_t>(1, in.patch_rows)));
  const std::int64_t head = v.hidden / v.heads;
  const std::int64_t per_row = pixels * (2 * kFloat + c) + kFloat * (head + 4 * v.hidden) +
                               c * (2 * v.hidden + v.intermediate) + kFloat * 2 * v.intermediate;
  return rows * per_row;
}

}  // namespace

std::int64_t kv_cache_bytes(const MemoryInputs& in) {
  const KvLayout layout = kv_layout({in.device, in.dtype, 0}, head_shape(in.model.text));
  const std::int64_t first = in.images * Engine::pages_needed(layout, in.prompt, in.group, in.new_tokens);
  // Completions of equal length end together. Then all second stages wait at once.
  const std::int64_t second =
      in.stage2_prompt > 0
          ? in.images * in.group * Engine::pages_needed(layout, in.stage2_prompt, 1, in.stage2_new)
          : 0;
  const std::int64_t evaluated =
      in.evaluation_images *
      std::max(Engine::pages_needed(layout, in.prompt, 1, in.new_tokens),
               Engine::pages_needed(layout, in.evaluation_stage2_prompt, 1, in.stage2_new));
  const std::int64_t page = layout.page_bytes * in.model.text.layers;
  return std::min(std::max({first, second, evaluated}), in.kv_limit / page) * page;
}

std::int64_t MemoryPlan::shared_bytes() const {
  return bytes_in(shared);
}

std::int64_t MemoryPlan::fixed_bytes() const {
  std::int64_t bytes = shared_bytes();
  for (const auto& [name, part] : held) {
    if (name != "KV cache" && name != "image features") bytes += part;
  }
  return bytes;
}

std::int64_t MemoryPlan::peak() const {
  std::int64_t largest = 0;
  for (const auto& [name, bytes] : passing) largest = std::max(largest, bytes);
  return bytes_in(shared) + bytes_in(held) + largest;
}

std::int64_t members_of_pass(const MemoryInputs& in) {
  const std::int64_t completion = std::max<std::int64_t>(1, in.new_tokens - 1);
  return std::clamp<std::int64_t>((in.micro_batch_tokens - in.prompt) / completion, 1, in.group);
}

MemoryPlan plan_memory(const MemoryInputs& in) {
  if (in.device == "cuda") return plan_cuda_memory(in);
  const TextConfig& text = in.model.text;
  const Widths w(text);
  const auto c = static_cast<std::int64_t>(size_of(in.dtype));
  const std::int64_t table = text.vocab * text.hidden;
  const LoraLayout layout(in.model, in.lora);
  const auto adapter = static_cast<std::int64_t>(layout.size()) * kFloat;
  std::int64_t ranks = 0;
  for (const LoraModule& module : layout.modules()) ranks += module.rank;
  ranks /= std::max<std::int64_t>(1, text.layers);

  MemoryPlan plan;
  const std::int64_t forward =
      c * (text.layers * w.layer_weights() + vision_weights(in.model.vision) + table);
  const std::int64_t backward =
      in.learner ? c * (text.layers * w.layer_weights() - w.qkv_weights() + table) : 0;
  const std::int64_t kv = in.actor ? kv_cache_bytes(in) : 0;
  const std::int64_t packed =
      packed_adapter_bytes(layout) * ((in.actor ? 1 : 0) + (in.learner ? 1 : 0) + (in.own_reference ? 1 : 0));
  const std::int64_t features = std::min(PolicyOptions().feature_cache_bytes,
                                         in.distinct_images * in.image_tokens * text.hidden * kFloat);
  plan.shared = {{"weights for the forward pass", forward},
                 {"weights for the backward pass", backward},
                 {"embedding", c * table}};
  plan.held = {{"program, tokenizer, manifests", in.process_bytes},
               {"libraries and heap", kLibraryBytes},
               {"adapter, gradient, moments", (in.learner ? 8 : 2) * adapter + packed},
               {"working memory of the threads", in.threads * thread_bytes(in)}};
  if (in.sentence_encoder_bytes > 0) plan.held.emplace_back("sentence encoder", in.sentence_encoder_bytes);
  // One product is loaded at a time, from the file's pages and a copy, before the KV cache and the image features exist.
  const std::int64_t kept = kv + features;
  const std::int64_t largest = std::max(table, 2 * w.hidden * w.mlp);
  const double file_element =
      static_cast<double>(in.file_bytes) / static_cast<double>(in.model.total_parameters());
  plan.passing.emplace_back(
      "loading (the largest product)",
      static_cast<std::int64_t>((file_element + static_cast<double>(c)) * static_cast<double>(largest)));
  plan.held.emplace_back("image features", features);
  plan.held.emplace_back("KV cache", kv);
  plan.passing.back().second = std::max<std::int64_t>(0, plan.passing.back().second - kept);

  if (in.actor) {
    const std::int64_t first = std::max(std::min(in.evaluation_images, in.distinct_images), std::int64_t{0});
    // The first evaluation encodes its images before the cache exists.
    plan.passing.emplace_back("images of an evaluation",
                              std::max<std::int64_t>(0, vision_bytes(in, first) - kv));
    plan.passing.emplace_back("images of a step", vision_bytes(in, in.images));
    const std::int64_t running = std::max(in.images * in.group, in.evaluation_images);
    const std::int64_t prefill = std::min(std::max(in.images, in.evaluation_images) * in.prompt,
                                          std::max(Engine::Options().prefill_rows, in.prompt));
    plan.passing.emplace_back("rollout", (prefill + running) * forward_row_bytes(w, c) +
                                             running * 2 * c * w.hidden + logit_bytes(text, running));
  }
  if (in.learner) {
    const KvLayout pages = kv_layout({"cpu", in.dtype, 0}, head_shape(text));
    const LearnerRows batch = micro_batch_rows(in);
    const std::int64_t layer = tape_row_bytes(w, c, text.heads, ranks);
    std::int64_t tape = 0;
    if (in.recompute) {
      tape = text.layers * kFloat * w.hidden * batch.rows + layer * batch.rows;
    } else {
      // In the last layer, only rows with an output need more than keys and values.
      tape = text.layers * kFloat * w.hidden * batch.rows + (text.layers - 1) * layer * batch.rows +
             kFloat * (w.q + 2 * w.kv) * batch.rows + (layer - kFloat * (w.q + 2 * w.kv)) * batch.outputs;
    }
    const std::int64_t pass = batch.outputs * (kFloat * 3 * w.hidden + 2 * c * w.hidden) +
                              batch.rows * (kFloat * text.head_dim + (in.dropout ? kFloat * w.mlp : 0)) +
                              pages.page_bytes * KvCache::pages_for(batch.rows, pages);
    const std::int64_t one =
        std::max(backward_row_bytes(w, c) * batch.rows,
                 forward_row_bytes(w, c) * batch.rows + 2 * logit_bytes(text, batch.outputs));
    plan.passing.emplace_back("learning (tape of a micro-batch)", tape + pass + one);
  }
  std::int64_t largest_pass = 0;
  for (const auto& [name, bytes] : plan.passing) largest_pass = std::max(largest_pass, bytes);
  plan.held.emplace_back("blocks kept for reuse", largest_pass / kKeptShare);
  return plan;
}

}  // namespace biqa
