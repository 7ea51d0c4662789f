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
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include "comm/node.h"
#include "core/processors.h"
#include "data/chat.h"
#include "data/manifest.h"
#include "data/preprocess.h"
#include "data/tokenizer.h"
#include "model/checkpoint.h"
#include "ops/backends.h"
#include "planning/model_sizes.h"
#include "training/run_checks.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

}  // namespace

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

/// Patches of an image, rounded up to whole tokens: mean over the manifest.
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

/// Operations per second of a product with `rows` rows and the shape of a layer.
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
  const auto run = [&] {
    ops->linear(x.const_view(), *packed, y.view());
    ops->memory().wait();
  };
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

/// The parts of the model and the data that a plan reads.
struct Sources {
  ModelConfig model;
  Tokenizer tokenizer;
  ChatIds chat;
  PreprocessConfig preprocess;
  std::vector<Sample> train;
  std::vector<std::vector<Sample>> evaluation;

  std::int64_t evaluation_images() const {
    std::int64_t images = 0;
    for (const auto& set : evaluation) images += static_cast<std::int64_t>(set.size());
    return images;
  }
  std::int64_t largest_set() const {
    std::int64_t largest = 0;
    for (const auto& set : evaluation) largest = std::max(largest, static_cast<std::int64_t>(set.size()));
    return largest;
  }
};

/// Without a manifest, returns images of max_pixels, enough for one step.
std::vector<Sample> training_samples(const Config& config, const PreprocessConfig& preprocess,
                                     std::vector<std::string>& assumptions) {
  std::error_code unknown;
  std::vector<Sample> train;
  if (fs::exists(config.data.train, unknown)) {
    train = read_manifest(config.data.train, config.data.skip_bad);
    check_training_data(config, train);
    return train;
  }
  const auto side = static_cast<std::int64_t>(std::sqrt(static_cast<double>(preprocess.max_pixels)));
  Sample nominal;
  nominal.size = {side, side};
  nominal.completion = "?";
  train.assign(static_cast<std::size_t>(config.rollout.images_per_step), nominal);
  assumptions.push_back(fmt::format("{} is missing: the plan assumes one step of images of max_pixels{}",
                                    config.data.train.string(),
                                    config.train.steps > 0 ? "" : " for each epoch"));
  return train;
}

std::vector<std::vector<Sample>> evaluation_sets(const Config& config,
                                                 std::vector<std::string>& assumptions) {
  std::error_code unknown;
  std::vector<std::vector<Sample>> sets;
  for (const fs::path& file : config.data.eval) {
    if (!fs::exists(file, unknown)) {
      assumptions.push_back(fmt::format("{} is missing: it is not counted", file.string()));
      continue;
    }
    std::vector<Sample>& set = sets.emplace_back(read_manifest(file, config.data.skip_bad));
    const auto most = static_cast<std::size_t>(config.train.eval_images);
    if (most > 0 && set.size() > most) set.resize(most);
  }
  return sets;
}

Sources read_sources(const Config& config, std::vector<std::string>& assumptions) {
  const fs::path& path = config.model.path;
  Sources sources{ModelConfig::load(path), Tokenizer::load(path), {}, PreprocessConfig::load(path), {}, {}};
  const ModelConfig& model = sources.model;
  sources.chat = find_chat_ids(sources.tokenizer,
                               {model.text.vocab, model.vision_start, model.vision_end, model.image_token});
  sources.chat.form = find_chat_template(path);
  sources.preprocess.limit(config.model.pixels());
  sources.train = training_samples(config, sources.preprocess, assumptions);
  sources.evaluation = evaluation_sets(config, assumptions);
  check_lengths(config, {model, sources.tokenizer, sources.chat, sources.preprocess}, sources.train,
                sources.evaluation);
  return sources;
}

/// Counts prompts and tokens of a step, for the plan and for its memory.
void count_tokens(const Config& config, const Sources& sources, RunPlan& plan, MemoryInputs& memory) {
  const auto tokens_of = [&](const std::optional<std::string>& system, std::span<const std::int64_t> images,
                             std::string_view user) {
    return static_cast<std::int64_t>(
        render_prompt(sources.tokenizer, sources.chat, system, images, user).ids.size());
  };
  const std::int64_t merge = sources.preprocess.merge;
  memory.patch_rows = typical_patches(sources.train, sources.preprocess);
  plan.image_tokens = memory.image_tokens = memory.patch_rows / (merge * merge);
  const PromptTexts& texts = config.prompts.texts;
  plan.prompt_tokens = tokens_of(texts.system, std::span(&plan.image_tokens, 1), texts.user);
  memory.evaluation_stage2_prompt =
      config.rollout.max_new_tokens + tokens_of(texts.stage2_system, {}, fill(texts.stage2_user, ""));
  if (config.stage2.enabled) plan.stage2_prompt_tokens = memory.evaluation_stage2_prompt;
  const std::int64_t stage2_new = config.stage2.enabled ? config.rollout.stage2_max_new_tokens : 0;
  plan.rollout_tokens = plan.trajectories * (config.rollout.max_new_tokens + stage2_new);
  plan.trained_rows =
      plan.images * plan.prompt_tokens + plan.trajectories * (config.rollout.max_new_tokens - 1);
  if (config.stage2.train)
    plan.trained_rows += plan.trajectories * (plan.stage2_prompt_tokens + stage2_new - 1);
}

double number(std::int64_t value) {
  return static_cast<double>(value);
}

double vision_flop(const VisionConfig& v, std::int64_t images, std::int64_t rows_of_image) {
  const double merger_weights =
      number(v.hidden * v.merge * v.merge) * number(v.hidden * v.merge * v.merge + v.out_hidden);
  const double patches = number(images * rows_of_image);
  const double window = number(v.window / v.patch) * number(v.window / v.patch);
  const double full_blocks = number(static_cast<std::int64_t>(v.full_attention_blocks.size()));
  return 2 * patches * (number(vision_weights(v)) - merger_weights) +
         2 * patches / number(v.merge * v.merge) * merger_weights +
         4 * number(v.hidden) * patches *
             (full_blocks * number(rows_of_image) +
              (number(v.depth) - full_blocks) * std::min(window, number(rows_of_image)));
}

/// Operations of a rollout.
struct RolloutFlop {
  double prefill = 0, decode = 0;
};

/// Two operations per weight and token, and the products of attention.
RolloutFlop count_operations(const Config& config, const ModelConfig& model, std::int64_t patch_rows,
                             RunPlan& plan) {
  const Widths w(model.text);
  const double layers = number(model.text.layers);
  const double token_flop = 2 * layers * number(w.layer_weights());
  const double head_flop = 2 * number(model.text.hidden * model.text.vocab);
  const auto attention_flop = [&](std::int64_t tokens, double keys) {
    return 4 * layers * number(w.q) * number(tokens) * keys;
  };
  plan.vision_flop = vision_flop(model.vision, plan.images, patch_rows);
  const bool stage2 = config.stage2.enabled && config.rollout.stage2_max_new_tokens > 0;
  const std::int64_t prompts =
      plan.images * plan.prompt_tokens + (stage2 ? plan.trajectories * plan.stage2_prompt_tokens : 0);
  const double half_answer = number(config.rollout.max_new_tokens) / 2;
  RolloutFlop rollout;
  rollout.prefill = number(prompts) * token_flop + attention_flop(prompts, number(plan.prompt_tokens) / 2);
  rollout.decode = number(plan.rollout_tokens) * (token_flop + head_flop) +
                   attention_flop(plan.rollout_tokens, number(plan.prompt_tokens) + half_answer);
  plan.rollout_flop = rollout.prefill + rollout.decode;
  // Passes: a forward without adapter if the KL term needs it, a forward, and a backward. The backward computes only
  // gradients of inputs, because the weights are frozen.
  const double passes =
      (config.objective.loss.beta != 0 ? 3 : 2) + (config.objective.recompute_layers ? 1 : 0);
  const double learned = number(plan.trained_rows) * token_flop +
                         number(plan.trajectories * config.rollout.max_new_tokens) * head_flop +
                         attention_flop(plan.trained_rows, number(plan.prompt_tokens) + half_answer);
  plan.learn_flop = number(config.objective.updates_per_rollout) * passes * learned;
  return rollout;
}

/// Fills the memory inputs that are equal on all ranks. `memory` already has the tokens.
void fill_memory_inputs(const Config& config, const ModelConfig& model, RunPlan& plan, MemoryInputs& memory) {
  memory.model = model;
  memory.dtype = config.model.dtype;
  memory.lora = config.lora;
  if (holds_weights(config.model.path)) {
    memory.file_bytes = static_cast<std::int64_t>(Checkpoint::open(config.model.path, model).bytes());
  } else {
    memory.file_bytes = 2 * model.total_parameters();  // bf16, as published
    plan.assumptions.push_back(
        fmt::format("{} has no weights: sizes are those of config.json", config.model.path.string()));
  }
  memory.process_bytes = resident_bytes();
  memory.stage2_prompt = plan.stage2_prompt_tokens;
  memory.stage2_new = config.rollout.stage2_max_new_tokens;
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
}

/// Memory of the rank and of the node that need most.
void plan_ranks(const MemoryInputs& common, std::int64_t largest_set, RunPlan& plan) {
  const std::size_t actors = plan.roles.actors.size(), learners = plan.roles.learners.size();
  std::vector<std::int64_t> alone;  // of each rank, without memory shared on its node
  for (int rank = 0; rank < static_cast<int>(plan.ranks); ++rank) {
    MemoryInputs own = common;
    own.actor = plan.roles.is_actor(rank);
    own.learner = plan.roles.is_learner(rank);
    own.images = own.actor ? share(plan.images, actors) : 0;
    // An evaluation runs as many images at a time as a step has trajectories.
    own.evaluation_images = own.actor ? std::min(share(largest_set, actors), plan.trajectories) : 0;
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
  // Any ranks may share a node, so the plan takes those that need the most.
  plan.node_ranks = std::min<std::int64_t>(plan.ranks, ranks_on_node(static_cast<int>(plan.ranks)));
  std::sort(alone.begin(), alone.end(), std::greater<>());
  plan.node_bytes = std::accumulate(alone.begin(), alone.begin() + plan.node_ranks, plan.node_shared_bytes);
}

/// Times of a step, from a short measurement on this machine.
void estimate_times(const Config& config, const ModelConfig& model, const RolloutFlop& rollout,
                    RunPlan& plan) {
  constexpr std::int64_t kManyRows = 256;
  constexpr std::int64_t kMostDecodeRows = 512;
  const std::size_t actors = plan.roles.actors.size(), learners = plan.roles.learners.size();
  const std::int64_t running =
      std::clamp<std::int64_t>(share(plan.images, actors) * config.rollout.group_size, 1, kMostDecodeRows);
  const auto threads = static_cast<int>(plan.threads);
  plan.batch_flop_per_second = product_rate(model, config.model.dtype, threads, kManyRows);
  plan.decode_flop_per_second = product_rate(model, config.model.dtype, threads, running);
  plan.rollout_seconds = ((plan.vision_flop + rollout.prefill) / plan.batch_flop_per_second +
                          rollout.decode / plan.decode_flop_per_second) /
                         number(static_cast<std::int64_t>(actors));
  plan.learn_seconds =
      plan.learn_flop / plan.batch_flop_per_second / number(static_cast<std::int64_t>(learners));
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
  const Sources sources = read_sources(config, plan.assumptions);
  plan.training_images = static_cast<std::int64_t>(sources.train.size());
  plan.evaluation_images = sources.evaluation_images();
  plan.images = config.rollout.images_per_step;
  plan.trajectories = plan.images * config.rollout.group_size;
  plan.steps = config.train.steps > 0 ? config.train.steps
                                      : config.train.epochs * (plan.training_images / plan.images);
  MemoryInputs memory;
  count_tokens(config, sources, plan, memory);
  fill_memory_inputs(config, sources.model, plan, memory);
  const RolloutFlop rollout = count_operations(config, sources.model, memory.patch_rows, plan);
  plan_ranks(memory, sources.largest_set(), plan);
  estimate_times(config, sources.model, rollout, plan);
  return plan;
}

}  // namespace biqa
