// SPDX-License-Identifier: Apache-2.0
#include "planning/plan.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <numeric>

#include "actor/engine.h"
#include "core/error.h"
#include "core/processors.h"
#include "data/chat.h"
#include "data/manifest.h"
#include "data/preprocess.h"
#include "data/tokenizer.h"
#include "model/checkpoint.h"
#include "model/kv_cache.h"
#include "ops/backends.h"
#include "policy/policy.h"
#include "run/progress.h"
#include "training/run_checks.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kFloat = 4;
/// What Engine, PictureEncoder, Ops and Policy do (engine.h, pictures.cpp, cpu_ops.cpp, policy.h).
constexpr std::int64_t kPrefillRows = 2048;
constexpr std::int64_t kVisionRows = 8192;
constexpr std::int64_t kLogitBytes = std::int64_t{16} << 20;
constexpr std::int64_t kFeatureCacheBytes = std::int64_t{1} << 30;
/// oneDNN's generated code, its scratch, the heap's gaps and blocks kept; measured (bench/plan_memory.sh).
constexpr std::int64_t kLibraryBytes = std::int64_t{14} << 20;

std::int64_t round_up(std::int64_t value, std::int64_t to) {
  return (value + to - 1) / to * to;
}

std::int64_t bytes_in(const MemoryParts& parts) {
  std::int64_t sum = 0;
  for (const auto& [name, bytes] : parts) sum += bytes;
  return sum;
}

/// Widths of the decoder that everything else follows from.
struct Widths {
  explicit Widths(const TextConfig& text)
      : hidden(text.hidden),
        q(text.heads * text.head_dim),
        kv(text.kv_heads * text.head_dim),
        mlp(text.intermediate) {}
  std::int64_t hidden, q, kv, mlp;
  /// Elements of one layer's matrices.
  std::int64_t qkv_weights() const { return hidden * (q + 2 * kv); }
  std::int64_t layer_weights() const { return qkv_weights() + q * hidden + 3 * hidden * mlp; }
};

std::int64_t vision_weights(const VisionConfig& v) {
  const std::int64_t cell = v.hidden * v.merge * v.merge;
  return v.channels * v.temporal * v.patch * v.patch * v.hidden +
         v.depth * (4 * v.hidden * v.hidden + 3 * v.hidden * v.intermediate) + cell * cell +
         cell * v.out_hidden;
}

/// A learner's rows when a group's prompt is taken once per micro batch.
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
    const std::int64_t members = std::clamp<std::int64_t>(
        (in.micro_batch_tokens - in.prompt) / std::max<std::int64_t>(1, completion), 1, in.group);
    batch = {in.prompt + members * completion, 1 + members * completion, 1};
  }
  return batch;
}

std::int64_t logit_bytes(const TextConfig& text, std::int64_t rows) {
  const std::int64_t chunk = std::clamp<std::int64_t>(kLogitBytes / (text.vocab * kFloat) / 32 * 32, 32, 512);
  return std::min(chunk, rows) * text.vocab * kFloat;
}

/// Layer of a forward pass that keeps nothing, all its tensors at once.
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

std::int64_t vision_bytes(const MemoryInputs& in, std::int64_t images) {
  const VisionConfig& v = in.model.vision;
  const auto c = static_cast<std::int64_t>(size_of(in.dtype));
  const std::int64_t pixels = v.channels * v.temporal * v.patch * v.patch;
  // Pictures are read until there are enough rows, so one batch may exceed them by a picture.
  const std::int64_t rows =
      std::min(images * in.patch_rows, round_up(kVisionRows, std::max<std::int64_t>(1, in.patch_rows)));
  const std::int64_t head = v.hidden / v.heads;
  const std::int64_t per_row = pixels * (2 * kFloat + c) + kFloat * (head + 4 * v.hidden) +
                               c * (2 * v.hidden + v.intermediate) + kFloat * 2 * v.intermediate;
  return rows * per_row;
}

std::int64_t kv_bytes(const MemoryInputs& in) {
  const KvLayout layout = cpu_kv_layout(head_shape(in.model.text), in.dtype);
  const std::int64_t first = in.images * Engine::pages_needed(layout, in.prompt, in.group, in.new_tokens);
  // Answers of one length end together, and then all second stages wait at once.
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

}  // namespace

std::int64_t MemoryPlan::shared_bytes() const {
  return bytes_in(shared);
}

std::int64_t MemoryPlan::peak() const {
  std::int64_t largest = 0;
  for (const auto& [name, bytes] : passing) largest = std::max(largest, bytes);
  return bytes_in(shared) + bytes_in(held) + largest;
}

MemoryPlan plan_memory(const MemoryInputs& in) {
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
  const std::int64_t kv = in.actor ? kv_bytes(in) : 0;
  // Factors are packed transposed and padded to 16: about four times their size, for the actor, the learner
  // and a start adapter.
  const std::int64_t packed =
      4 * adapter * ((in.actor ? 1 : 0) + (in.learner ? 1 : 0) + (in.own_reference ? 1 : 0));
  const std::int64_t features =
      std::min(kFeatureCacheBytes, in.distinct_images * in.image_tokens * text.hidden * kFloat);
  plan.shared = {
      {"weights for the forward", forward}, {"weights for the backward", backward}, {"embedding", c * table}};
  plan.held = {{"program, tokenizer, manifests", in.process_bytes},
               {"libraries and heap", kLibraryBytes},
               {"adapter, gradient, moments", (in.learner ? 8 : 2) * adapter + packed}};
  // The cache comes with the first rollout, the features with the pictures: the checkpoint's file is mapped before.
  const std::int64_t kept = kv + features;
  plan.passing.emplace_back("loading (the mapped checkpoint)",
                            in.file_bytes + c * std::max({table, 2 * w.hidden * w.mlp}));
  plan.held.emplace_back("image features", features);
  plan.held.emplace_back("KV cache", kv);
  plan.passing.back().second = std::max<std::int64_t>(0, plan.passing.back().second - kept);

  if (in.actor) {
    const std::int64_t first = std::max(std::min(in.evaluation_images, in.distinct_images), std::int64_t{0});
    // The first evaluation sees its pictures before there is a cache.
    plan.passing.emplace_back("pictures of an evaluation",
                              std::max<std::int64_t>(0, vision_bytes(in, first) - kv));
    plan.passing.emplace_back("pictures of a step", vision_bytes(in, in.images));
    const std::int64_t running = std::max(in.images * in.group, in.evaluation_images);
    const std::int64_t prefill =
        std::min(std::max(in.images, in.evaluation_images) * in.prompt, std::max(kPrefillRows, in.prompt));
    plan.passing.emplace_back("rollout", (prefill + running) * forward_row_bytes(w, c) +
                                             running * 2 * c * w.hidden + logit_bytes(text, running));
  }
  if (in.learner) {
    const KvLayout pages = cpu_kv_layout(head_shape(text), in.dtype);
    const LearnerRows batch = micro_batch_rows(in);
    const std::int64_t layer = tape_row_bytes(w, c, text.heads, ranks);
    std::int64_t tape = 0;
    if (in.recompute) {
      tape = text.layers * kFloat * w.hidden * batch.rows + layer * batch.rows;
    } else {
      // Of the last layer only the rows with an output go beyond keys and values.
      tape = text.layers * kFloat * w.hidden * batch.rows + (text.layers - 1) * layer * batch.rows +
             kFloat * (w.q + 2 * w.kv) * batch.rows + (layer - kFloat * (w.q + 2 * w.kv)) * batch.outputs;
    }
    const std::int64_t pass = batch.outputs * (kFloat * 3 * w.hidden + 2 * c * w.hidden) +
                              batch.rows * (kFloat * text.head_dim + (in.dropout ? kFloat * w.mlp : 0)) +
                              pages.page_bytes * KvCache::pages_for(batch.rows, pages);
    const std::int64_t one =
        std::max(backward_row_bytes(w, c) * batch.rows,
                 forward_row_bytes(w, c) * batch.rows + 2 * logit_bytes(text, batch.outputs));
    plan.passing.emplace_back("learning (tape of a micro batch)", tape + pass + one);
  }
  return plan;
}

namespace {

std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

std::int64_t share(std::int64_t count, std::size_t ranks) {
  return (count + static_cast<std::int64_t>(ranks) - 1) / static_cast<std::int64_t>(ranks);
}

/// Patches of a picture, rounded up to whole tokens: mean over the manifest.
std::int64_t typical_patches(const std::vector<Sample>& samples, const PreprocessConfig& preprocess) {
  std::int64_t tokens = 0;
  for (const Sample& sample : samples) tokens += image_tokens(sample.size, preprocess);
  return share(tokens, samples.size()) * preprocess.merge * preprocess.merge;
}

bool holds_weights(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) return true;
  }
  return false;
}

/// Operations per second of a layer-like product with so many rows.
double product_rate(const ModelConfig& model, DType dtype, int threads, std::int64_t rows) {
  constexpr std::int64_t kWidest = 8192;
  constexpr double kSeconds = 0.15;
  const std::int64_t in = std::min(model.text.hidden, kWidest);
  const std::int64_t out = std::min(2 * model.text.intermediate, kWidest);
  const auto ops = make_ops({"cpu", dtype, threads});
  Tensor weight(DType::f32, out, in, "plan");
  Tensor x(dtype, rows, in, "plan");
  Tensor y(DType::f32, rows, out, "plan");
  weight.zero();
  x.zero();
  const auto packed = ops->pack(weight.const_view(), {}, false);
  const auto run = [&] { ops->linear(x.const_view(), *packed, y.view()); };
  run();
  const auto start = std::chrono::steady_clock::now();
  double seconds = 0;
  std::int64_t runs = 0;
  while (seconds < kSeconds) {
    run();
    ++runs;
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return 2.0 * static_cast<double>(rows * in * out * runs) / seconds;
}

}  // namespace

RunPlan make_plan(const Config& config, int ranks, int processors) {
  require_training_keys(config);
  std::error_code unknown;
  if (!fs::is_directory(config.model.path, unknown) ||
      (!config.model.adapter.empty() && !fs::exists(config.model.adapter, unknown)))
    require_inputs(config);
  RunPlan plan;
  plan.roles = plan_roles(config.roles, ranks);
  plan.ranks = ranks;
  if (processors == 0) processors = std::max(1, usable_processors() / ranks_on_node(ranks));
  plan.threads = threads_for(processors, config.model.threads);
  const ModelConfig model = ModelConfig::load(config.model.path);
  const Tokenizer tokenizer = Tokenizer::load(config.model.path);
  ChatIds chat =
      find_chat_ids(tokenizer, {model.text.vocab, model.vision_start, model.vision_end, model.image_token});
  chat.form = find_chat_template(config.model.path);
  PreprocessConfig preprocess = PreprocessConfig::load(config.model.path);
  preprocess.limit(config.model.pixels());

  std::vector<Sample> train;
  if (fs::exists(config.data.train, unknown)) {
    train = read_manifest(config.data.train, config.data.skip_bad);
    check_training_data(config, train);
  } else {
    const auto side = static_cast<std::int64_t>(std::sqrt(static_cast<double>(preprocess.max_pixels)));
    Sample nominal;
    nominal.size = {side, side};
    nominal.completion = "?";
    train.assign(static_cast<std::size_t>(config.rollout.images_per_step), nominal);
    plan.assumptions.push_back(fmt::format("{} is missing: one step of pictures of max_pixels is planned{}",
                                           config.data.train.string(),
                                           config.train.steps > 0 ? "" : " for each epoch"));
  }
  std::int64_t largest_set = 0;
  std::vector<std::vector<Sample>> evaluation;
  for (const fs::path& file : config.data.eval) {
    if (!fs::exists(file, unknown)) {
      plan.assumptions.push_back(fmt::format("{} is missing: it is not counted", file.string()));
      continue;
    }
    evaluation.push_back(read_manifest(file, config.data.skip_bad));
    auto count = static_cast<std::int64_t>(evaluation.back().size());
    if (config.train.eval_images > 0) count = std::min(count, config.train.eval_images);
    evaluation.back().resize(static_cast<std::size_t>(count));
    plan.evaluation_images += count;
    largest_set = std::max(largest_set, count);
  }
  check_lengths(config, {model, tokenizer, chat, preprocess}, train, evaluation);
  plan.training_images = static_cast<std::int64_t>(train.size());
  plan.images = config.rollout.images_per_step;
  plan.trajectories = plan.images * config.rollout.group_size;
  plan.steps = config.train.steps > 0 ? config.train.steps
                                      : config.train.epochs * (plan.training_images / plan.images);

  MemoryInputs memory;
  memory.model = model;
  memory.dtype = config.model.dtype;
  memory.lora = config.lora;
  if (holds_weights(config.model.path)) {
    memory.file_bytes = static_cast<std::int64_t>(Checkpoint::open(config.model.path, model).bytes());
  } else {
    memory.file_bytes = 2 * model.total_parameters();  // bf16, as published
    plan.assumptions.push_back(
        fmt::format("{} holds no weights: sizes are those of config.json", config.model.path.string()));
  }
  memory.patch_rows = typical_patches(train, preprocess);
  plan.image_tokens = memory.image_tokens = memory.patch_rows / (preprocess.merge * preprocess.merge);
  const PromptTexts& texts = config.prompts.texts;
  plan.prompt_tokens = static_cast<std::int64_t>(
      render_prompt(tokenizer, chat, texts.system, std::span(&plan.image_tokens, 1), texts.user).ids.size());
  memory.evaluation_stage2_prompt =
      config.rollout.max_new_tokens +
      static_cast<std::int64_t>(
          render_prompt(tokenizer, chat, texts.stage2_system, {}, fill(texts.stage2_user, "")).ids.size());
  if (config.stage2.enabled) plan.stage2_prompt_tokens = memory.evaluation_stage2_prompt;
  memory.stage2_prompt = plan.stage2_prompt_tokens;
  memory.stage2_new = config.rollout.stage2_max_new_tokens;
  memory.process_bytes = resident_bytes();

  // Tokens.
  const std::int64_t stage2_new = config.stage2.enabled ? config.rollout.stage2_max_new_tokens : 0;
  plan.rollout_tokens = plan.trajectories * (config.rollout.max_new_tokens + stage2_new);
  plan.trained_rows =
      plan.images * plan.prompt_tokens + plan.trajectories * (config.rollout.max_new_tokens - 1);
  if (config.stage2.train)
    plan.trained_rows += plan.trajectories * (plan.stage2_prompt_tokens + stage2_new - 1);

  // Operations: two per weight and token, and the products of attention.
  const Widths w(model.text);
  const auto number = [](std::int64_t value) { return static_cast<double>(value); };
  const double layers = number(model.text.layers);
  const double token_flop = 2 * layers * number(w.layer_weights());
  const double head_flop = 2 * number(model.text.hidden * model.text.vocab);
  const auto attention_flop = [&](std::int64_t tokens, double keys) {
    return 4 * layers * number(w.q) * number(tokens) * keys;
  };
  const VisionConfig& v = model.vision;
  const double merger_weights =
      number(v.hidden * v.merge * v.merge) * number(v.hidden * v.merge * v.merge + v.out_hidden);
  const double patches = number(plan.images * memory.patch_rows);
  const double window = number(v.window / v.patch) * number(v.window / v.patch);
  const double full_blocks = number(static_cast<std::int64_t>(v.full_attention_blocks.size()));
  plan.vision_flop = 2 * patches * (number(vision_weights(v)) - merger_weights) +
                     2 * patches / number(v.merge * v.merge) * merger_weights +
                     4 * number(v.hidden) * patches *
                         (full_blocks * number(memory.patch_rows) +
                          (number(v.depth) - full_blocks) * std::min(window, number(memory.patch_rows)));
  const std::int64_t prompts =
      plan.images * plan.prompt_tokens + (stage2_new > 0 ? plan.trajectories * plan.stage2_prompt_tokens : 0);
  const double half_answer = number(config.rollout.max_new_tokens) / 2;
  const double prefill_flop =
      number(prompts) * token_flop + attention_flop(prompts, number(plan.prompt_tokens) / 2);
  const double decode_flop = number(plan.rollout_tokens) * (token_flop + head_flop) +
                             attention_flop(plan.rollout_tokens, number(plan.prompt_tokens) + half_answer);
  plan.rollout_flop = prefill_flop + decode_flop;
  // A forward without adapter where the KL term needs it, a forward, a backward of the inputs (the weights are frozen).
  const double passes =
      (config.objective.loss.beta != 0 ? 3 : 2) + (config.objective.recompute_layers ? 1 : 0);
  const double learned = number(plan.trained_rows) * token_flop +
                         number(plan.trajectories * config.rollout.max_new_tokens) * head_flop +
                         attention_flop(plan.trained_rows, number(plan.prompt_tokens) + half_answer);
  plan.learn_flop = number(config.objective.updates_per_rollout) * passes * learned;

  // Memory, of the rank that needs most.
  memory.own_reference = !config.model.adapter.empty();
  memory.stage2_trained = config.stage2.train && plan.stage2_prompt_tokens > 0;
  memory.recompute = config.objective.recompute_layers;
  memory.dropout = config.lora.dropout > 0;
  memory.threads = static_cast<int>(plan.threads);
  memory.kv_limit = static_cast<std::int64_t>(config.rollout.kv_memory);
  memory.prompt = plan.prompt_tokens;
  memory.group = config.rollout.group_size;
  memory.new_tokens = config.rollout.max_new_tokens;
  memory.micro_batch_tokens = config.objective.micro_batch_tokens;
  const std::size_t actors = plan.roles.actors.size();
  const std::size_t learners = plan.roles.learners.size();
  std::vector<std::int64_t> alone;  // of each rank, without what its node holds once
  for (int rank = 0; rank < ranks; ++rank) {
    MemoryInputs own = memory;
    own.actor = plan.roles.is_actor(rank);
    own.learner = plan.roles.is_learner(rank);
    own.images = own.actor ? share(plan.images, actors) : 0;
    // An evaluation has as many pictures under way as a step has trajectories.
    own.evaluation_images =
        own.actor ? std::min(share(largest_set, actors), plan.images * config.rollout.group_size) : 0;
    own.learner_images = own.learner ? share(plan.images, learners) : 0;
    const std::int64_t seen =
        std::min(plan.training_images, plan.steps * std::max(own.images, own.learner_images));
    own.distinct_images = seen + (own.actor ? share(plan.evaluation_images, actors) : 0);
    MemoryPlan needs = plan_memory(own);
    alone.push_back(needs.peak() - needs.shared_bytes());
    plan.node_shared_bytes = std::max(plan.node_shared_bytes, needs.shared_bytes());
    if (needs.peak() > plan.memory.peak()) {
      plan.memory = std::move(needs);
      plan.fullest = plan.roles.role_name(rank);
    }
  }

  // The ranks of a node may be any: those that need most.
  plan.node_ranks = std::min(ranks, ranks_on_node(ranks));
  std::sort(alone.begin(), alone.end(), std::greater<>());
  plan.node_bytes = std::accumulate(alone.begin(), alone.begin() + plan.node_ranks, plan.node_shared_bytes);

  // Time, from a moment's measurement.
  constexpr std::int64_t kManyRows = 256;
  constexpr std::int64_t kMostDecodeRows = 512;
  const std::int64_t running =
      std::clamp<std::int64_t>(share(plan.images, actors) * config.rollout.group_size, 1, kMostDecodeRows);
  plan.batch_flop_per_second =
      product_rate(model, config.model.dtype, static_cast<int>(plan.threads), kManyRows);
  plan.decode_flop_per_second =
      product_rate(model, config.model.dtype, static_cast<int>(plan.threads), running);
  plan.rollout_seconds = ((plan.vision_flop + prefill_flop) / plan.batch_flop_per_second +
                          decode_flop / plan.decode_flop_per_second) /
                         number(static_cast<std::int64_t>(actors));
  plan.learn_seconds =
      plan.learn_flop / plan.batch_flop_per_second / number(static_cast<std::int64_t>(learners));
  return plan;
}

namespace {

std::string bytes_text(std::int64_t bytes) {
  const double mib = static_cast<double>(bytes) / (1 << 20);
  return mib < 1024 ? fmt::format("{:.1f} MiB", mib) : fmt::format("{:.2f} GiB", mib / 1024);
}
std::string flop_text(double flop) {
  return fmt::format("{:.3g} TFLOP", flop / 1e12);
}

}  // namespace

std::string describe_plan(const RunPlan& plan) {
  std::string text;
  for (const std::string& assumption : plan.assumptions) text += "assumed: " + assumption + "\n";
  text += plan.roles.describe() + "\n";
  const auto line = [&](const std::string& name, const std::string& value) {
    text += fmt::format("{:<22} {}\n", name, value);
  };
  line("threads per rank", fmt::format("{}", plan.threads));
  line("images", fmt::format("{} to train on, {} to evaluate", plan.training_images, plan.evaluation_images));
  line("steps",
       fmt::format("{} of {} images and {} trajectories", plan.steps, plan.images, plan.trajectories));
  line("prompt", fmt::format("{} tokens, {} of them image; from the caption alone at most {}",
                             plan.prompt_tokens, plan.image_tokens, plan.stage2_prompt_tokens));
  line("tokens of a step",
       fmt::format(
           "at most {} generated, {} through the learner (every answer as long as max_new_tokens allows)",
           plan.rollout_tokens, plan.trained_rows));
  line("operations of a step",
       fmt::format("at most {}: vision {}, rollout {}, learning {}",
                   flop_text(plan.vision_flop + plan.rollout_flop + plan.learn_flop),
                   flop_text(plan.vision_flop), flop_text(plan.rollout_flop), flop_text(plan.learn_flop)));
  line("rate of a rank", fmt::format("{:.1f} GFLOP/s, {:.1f} while generating (products alone, measured now)",
                                     plan.batch_flop_per_second / 1e9, plan.decode_flop_per_second / 1e9));
  line("time of a step",
       fmt::format("about {} at that rate: rollout {:.2f} s, learning {:.2f} s",
                   duration_text(plan.step_seconds()), plan.rollout_seconds, plan.learn_seconds));
  line("time of the run", fmt::format("about {} without evaluations",
                                      duration_text(plan.step_seconds() * static_cast<double>(plan.steps))));
  line("peak memory", fmt::format("{} of the fullest rank ({}), if every answer is as long as allowed",
                                  bytes_text(plan.memory.peak()), plan.fullest));
  for (const auto& [name, bytes] : plan.memory.shared)
    text += fmt::format("  {:<32} {:>12}{}\n", name, bytes_text(bytes),
                        plan.ranks > 1 ? "  once per node, for all its ranks" : "");
  for (const auto& [name, bytes] : plan.memory.held)
    text += fmt::format("  {:<32} {:>12}\n", name, bytes_text(bytes));
  text += "  and the largest of\n";
  for (const auto& [name, bytes] : plan.memory.passing)
    text += fmt::format("    {:<30} {:>12}\n", name, bytes_text(bytes));
  if (plan.ranks > 1) {
    line("peak memory of a node",
         fmt::format("at most {} with {} ranks on it, {} of that their one copy of the weights",
                     bytes_text(plan.node_bytes), plan.node_ranks, bytes_text(plan.node_shared_bytes)));
  }
  return text;
}

}  // namespace biqa
