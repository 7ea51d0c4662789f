// SPDX-License-Identifier: Apache-2.0
#include "planning/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include "actor/engine.h"
#include "comm/launcher.h"
#include "comm/node.h"
#include "core/processors.h"
#include "data/chat.h"
#include "data/manifest.h"
#include "data/preprocess.h"
#include "data/tokenizer.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/model_sizes.h"
#include "model/qwen_vl.h"
#include "ops/backends.h"
#include "ops/cuda/device.h"
#include "ops/gpu_cards.h"
#include "planning/cpu_speed.h"
#include "training/meaning_judge.h"
#include "training/run_checks.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

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
  assumptions.push_back(
      fmt::format("{} is missing: the plan assumes as many images as one step takes, of "
                  "max_pixels each{}",
                  config.data.train.string(), config.train.steps > 0 ? "" : ", so one step for each epoch"));
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
  check_vision_attention({config.model.device, config.model.dtype, 0, 0, config.model.vision_attention},
                         model.vision.hidden / model.vision.heads);
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
  memory.prompt = plan.prompt_tokens;
  memory.group = config.rollout.group_size;
  memory.new_tokens = config.rollout.max_new_tokens;
  memory.micro_batch_tokens = config.objective.micro_batch_tokens;
  plan.trained_prompts = plan.images * share(memory.group, static_cast<std::size_t>(members_of_pass(memory)));
  plan.trained_rows =
      plan.trained_prompts * plan.prompt_tokens + plan.trajectories * (config.rollout.max_new_tokens - 1);
  if (config.stage2.train)
    plan.trained_rows += plan.trajectories * (plan.stage2_prompt_tokens + stage2_new - 1);
}

double number(std::int64_t value) {
  return static_cast<double>(value);
}

/// Upper bounds: every completion has the maximum length.
StepParts count_operations(const Config& config, const ModelConfig& model, std::int64_t patch_rows,
                           const RunPlan& plan) {
  const DecoderFlop flop(model);
  const double images = number(plan.images), trajectories = number(plan.trajectories);
  const double prompt = number(plan.prompt_tokens), second_prompt = number(plan.stage2_prompt_tokens);
  const double tokens = number(config.rollout.max_new_tokens);
  const double second = second_prompt > 0 ? number(config.rollout.stage2_max_new_tokens) : 0;
  const LearnerPasses passes{config.objective.loss.beta != 0, config.objective.recompute_layers};
  // The first token of a completion comes from its prompt's last row.
  const PassRows completion = completion_rows(tokens - 1, prompt);
  StepParts step;
  step.vision = ModelFlop(model).vision(images, number(patch_rows));
  step.prefill = images * flop.forward(prompt_rows(prompt));
  step.decode = trajectories * flop.forward(completion);
  step.sample = flop.sample(trajectories * (tokens + second));
  step.learn = number(plan.trained_prompts) * flop.learn(prompt_rows(prompt), passes) +
               trajectories * flop.learn(completion, passes);
  step.score = flop.score(trajectories * tokens, passes);
  if (second > 0) {
    const PassRows second_completion = completion_rows(second - 1, second_prompt);
    step.prefill += trajectories * flop.forward(prompt_rows(second_prompt));
    step.decode += trajectories * flop.forward(second_completion);
    if (config.stage2.train) {
      step.learn += trajectories *
                    (flop.learn(prompt_rows(second_prompt), passes) + flop.learn(second_completion, passes));
      step.score += flop.score(trajectories * second, passes);
    }
  }
  const double updates = number(config.objective.updates_per_rollout);
  step.learn *= updates;
  step.score *= updates;
  return step;
}

/// Bytes of the weights in memory, which are f32. 0 if the rewards need no encoder.
std::int64_t sentence_encoder_bytes(const Config& config, std::vector<std::string>& assumptions) {
  if (!needs_sentence_encoder(config)) return 0;
  const fs::path file = config.rewards.similarity_model / "model.safetensors";
  std::error_code unknown;
  if (!fs::exists(file, unknown)) {
    assumptions.push_back(
        fmt::format("{} is missing: the memory of the sentence encoder is not counted", file.string()));
    return 0;
  }
  std::int64_t elements = 0;
  const Safetensors weights = Safetensors::open(file);
  for (const StoredTensor& tensor : weights.tensors()) elements += tensor.elements();
  return elements * static_cast<std::int64_t>(sizeof(float));
}

/// Fills the memory inputs that are equal on all ranks. `memory` already has the tokens.
void fill_memory_inputs(const Config& config, const ModelConfig& model, RunPlan& plan, MemoryInputs& memory) {
  memory.model = model;
  memory.device = config.model.device;
  memory.dtype = config.model.dtype;
  memory.vision_attention = config.model.vision_attention;
  memory.lora = config.lora;
  if (holds_weights(config.model.path)) {
    memory.file_bytes = static_cast<std::int64_t>(Checkpoint::open(config.model.path, model).bytes());
  } else {
    memory.file_bytes = 2 * model.total_parameters();  // bf16, as published
    plan.assumptions.push_back(
        fmt::format("{} has no weights: sizes are those of config.json", config.model.path.string()));
  }
  memory.process_bytes = resident_bytes();
  memory.sentence_encoder_bytes = sentence_encoder_bytes(config, plan.assumptions);
  memory.stage2_prompt = plan.stage2_prompt_tokens;
  memory.stage2_new = config.rollout.stage2_max_new_tokens;
  memory.own_reference = !config.model.adapter.empty();
  memory.stage2_trained = config.stage2.train && plan.stage2_prompt_tokens > 0;
  memory.reference_pass = config.objective.loss.beta != 0;
  memory.recompute = config.objective.recompute_layers;
  memory.dropout = config.lora.dropout > 0;
  memory.threads = static_cast<int>(plan.threads);
  memory.kv_limit = static_cast<std::int64_t>(config.rollout.kv_memory);
}

/// Memory of the rank and of the node that need most.
void plan_ranks(const MemoryInputs& common, std::int64_t largest_set, RunPlan& plan) {
  const std::size_t actors = plan.roles.actors.size(), learners = plan.roles.learners.size();
  std::vector<std::int64_t> alone;  // of each rank, without memory shared on its node
  for (int rank = 0; rank < static_cast<int>(plan.ranks); ++rank) {
    MemoryInputs own = common;
    own.actor = plan.roles.is_actor(rank);
    own.learner = plan.roles.is_learner(rank);
    if (!plan.roles.is_reward(rank)) own.sentence_encoder_bytes = 0;
    own.images = own.actor ? share(plan.images, actors) : 0;
    // An evaluation runs as many images at a time as a step has trajectories.
    own.evaluation_images = own.actor ? std::min(share(largest_set, actors), plan.trajectories) : 0;
    own.learner_images = own.learner ? share(plan.images, learners) : 0;
    own.learners = static_cast<std::int64_t>(learners);
    const std::int64_t seen =
        std::min(plan.training_images, plan.steps * std::max(own.images, own.learner_images));
    own.distinct_images = seen + (own.actor ? share(plan.evaluation_images, actors) : 0);
    MemoryPlan needs = plan_memory(own);
    alone.push_back(needs.peak() - needs.shared_bytes());
    plan.node_shared_bytes = std::max(plan.node_shared_bytes, needs.shared_bytes());
    if (needs.peak() > plan.memory.peak()) {
      plan.memory = needs;
      plan.fullest = plan.roles.role_name(rank);
    }
    plan.rank_memory.push_back(std::move(needs));
  }
  // Any ranks may share a node, so the plan takes those that need the most.
  plan.node_ranks = std::min<std::int64_t>(plan.ranks, ranks_on_node(static_cast<int>(plan.ranks)));
  std::sort(alone.begin(), alone.end(), std::greater<>());
  plan.node_bytes = std::accumulate(alone.begin(), alone.begin() + plan.node_ranks, plan.node_shared_bytes);
}

/// The GPU that is here, where the program can use it.
std::optional<DeviceFacts> gpu_here() {
  if (!built_with_cuda()) return std::nullopt;
  try {
    return cuda_device_facts(number_from(kLocalRankVariables));
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// Fills what `rates` leaves open. Throws Error (usage) for a named card without a data sheet.
GpuRates settled_rates(const Config& config, GpuRates rates, const std::optional<DeviceFacts>& here) {
  rates.share_given = rates.share > 0;
  rates.bandwidth_given = rates.bandwidth > 0;
  if (rates.peak_flop == 0) rates.peak_flop = config.model.gpu_tflops * 1e12;
  rates.peak_given = rates.peak_flop > 0;
  const bool named = !rates.card.empty();
  const std::string name = named ? rates.card : here ? here->name : "";
  const GpuCard* card = find_gpu_card(name);
  if (named && card == nullptr && !(rates.peak_given && rates.bandwidth_given)) {
    fail_usage(
        "--gpu {}: no data sheet of such a GPU is known: give --gpu-bandwidth and model.gpu_tflops, or one "
        "of {}",
        name, gpu_card_names());
  }
  rates.origin = named ? "given" : here ? "found here" : "assumed, no GPU found here";
  rates.card = name;
  if (card == nullptr &&
      !named) {  // the times are then those of the card that the bars of docs/performance-model.md name
    card = find_gpu_card("H100 80GB HBM3");
    rates.card = card->name;
    rates.origin = here ? fmt::format("assumed, no data sheet of {} is known", name) : rates.origin;
  }
  if (!rates.share_given) rates.share = GpuRates::kShare;
  if (card == nullptr) return rates;  // both rates are given
  if (!rates.peak_given) rates.peak_flop = card->peak_flop;
  if (!rates.bandwidth_given) rates.bandwidth = card->bandwidth;
  return rates;
}

/// Parts of a step, because the KV cache of an actor may be too small for all its groups at once.
std::int64_t count_waves(const Config& config, const ModelConfig& model, const RunPlan& plan) {
  const KvLayout layout = kv_layout({config.model.device, config.model.dtype, 0}, head_shape(model.text));
  const std::int64_t group_bytes = Engine::pages_needed(layout, plan.prompt_tokens, config.rollout.group_size,
                                                        config.rollout.max_new_tokens) *
                                   layout.page_bytes * model.text.layers;
  const std::int64_t groups = share(plan.images, plan.roles.actors.size());
  const std::int64_t at_once =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(config.rollout.kv_memory) / group_bytes, 1, groups);
  return share(groups, static_cast<std::size_t>(at_once));
}

/// Times of a step on GPUs. Every part takes the larger of its operations over the rate and its bytes over the bandwidth. A
/// generated token reads all weights, and each sequence its keys and values.
void estimate_gpu_times(const Config& config, const ModelConfig& model, RunPlan& plan) {
  const auto actors = static_cast<std::int64_t>(plan.roles.actors.size());
  const auto learners = static_cast<std::int64_t>(plan.roles.learners.size());
  const double rate = plan.gpu.share * plan.gpu.peak_flop;
  const double bandwidth = plan.gpu.share * plan.gpu.bandwidth;
  const auto element = static_cast<std::int64_t>(size_of(config.model.dtype));
  const KvLayout layout = kv_layout({config.model.device, config.model.dtype, 0}, head_shape(model.text));
  const Widths w(model.text);
  const double weights =
      number(element * (model.text.layers * w.layer_weights() + model.text.hidden * model.text.vocab));
  const double token_bytes = number(model.text.layers * layout.page_bytes / layout.page_tokens);
  const double context = number(plan.prompt_tokens) + number(config.rollout.max_new_tokens) / 2;
  const std::int64_t groups = share(plan.images, plan.roles.actors.size());
  const double running = number(groups * config.rollout.group_size) / number(plan.waves);
  const std::int64_t second = config.stage2.enabled ? config.rollout.stage2_max_new_tokens : 0;
  const double iterations = number(plan.waves * config.rollout.max_new_tokens + second);
  const double read = iterations * (weights + running * context * token_bytes);
  const StepParts& flop = plan.operations;
  plan.rollout_seconds = (flop.vision + flop.prefill) / rate / number(actors) +
                         std::max((flop.decode + flop.sample) / rate / number(actors), read / bandwidth);
  plan.learn_seconds = flop.learning() / rate / number(learners);
}

/// Times of a step, from a short measurement on this machine. `inputs`: those of the memory of all ranks.
void estimate_cpu_times(const Config& config, MemoryInputs inputs, RunPlan& plan) {
  const auto actors = static_cast<std::int64_t>(plan.roles.actors.size());
  const auto learners = static_cast<std::int64_t>(plan.roles.learners.size());
  inputs.images = share(share(plan.images, plan.roles.actors.size()), static_cast<std::size_t>(plan.waves));
  SampleRequest sampling;
  sampling.temperature = static_cast<float>(config.rollout.temperature);
  sampling.top_k = static_cast<std::int32_t>(config.rollout.top_k);
  sampling.top_p = static_cast<float>(config.rollout.top_p);
  const StepParts rates = plan.cpu_rates = measure_cpu_speed(inputs, sampling);
  const StepParts& flop = plan.operations;
  plan.rollout_seconds = (flop.vision / rates.vision + flop.prefill / rates.prefill +
                          flop.decode / rates.decode + flop.sample / rates.sample) /
                         number(actors);
  plan.learn_seconds = (flop.learn / rates.learn + flop.score / rates.score) / number(learners);
}

std::string weights_text(const RewardConfig& config) {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < rewards().size(); ++i)
    parts.push_back(fmt::format("{} {}", rewards()[i].name, config.weights[i].text()));
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace

double RunPlan::longest_step_seconds() const {
  return number(1 + refill_rounds) * rollout_seconds +
         number(images + further_images) / number(images) * learn_seconds;
}

namespace {

/// A plan without times, and what it was made from.
struct Counted {
  RunPlan plan;
  MemoryInputs memory;
};

Counted count(const Config& config, int ranks, int processors) {
  require_training_keys(config);
  std::error_code unknown;
  if (!fs::is_directory(config.model.path, unknown) ||
      (!config.model.adapter.empty() && !fs::exists(config.model.adapter, unknown)) ||
      (!config.rewards.similarity_model.empty() &&
       !fs::is_directory(config.rewards.similarity_model, unknown)) ||
      (!config.rewards.lexicon.empty() && !fs::exists(config.rewards.lexicon, unknown)))
    require_inputs(config);
  Counted counted;
  RunPlan& plan = counted.plan;
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
  if (!row_of(config.objective.loss.loss).imitates) plan.reward_weights = weights_text(config.rewards);
  plan.further_images =
      std::min(config.rollout.refill_rounds * plan.images, plan.training_images - plan.images);
  plan.refill_rounds = std::min(config.rollout.refill_rounds, plan.further_images);
  plan.doubts = schedule_doubts(config, plan.steps);
  MemoryInputs& memory = counted.memory;
  count_tokens(config, sources, plan, memory);
  fill_memory_inputs(config, sources.model, plan, memory);
  plan.operations = count_operations(config, sources.model, memory.patch_rows, plan);
  plan_ranks(memory, sources.largest_set(), plan);
  plan.device = config.model.device;
  plan.waves = count_waves(config, sources.model, plan);
  return counted;
}

}  // namespace

RunPlan count_plan(const Config& config, int ranks, int processors) {
  return count(config, ranks, processors).plan;
}

RunPlan make_plan(const Config& config, int ranks, int processors, const GpuRates& rates) {
  auto [plan, memory] = count(config, ranks, processors);
  if (plan.device != "cuda") {
    estimate_cpu_times(config, memory, plan);
    return plan;
  }
  plan.here = gpu_here();
  plan.gpu = settled_rates(config, rates, plan.here);
  estimate_gpu_times(config, memory.model, plan);
  return plan;
}

std::vector<std::string> data_doubts(const Config& config) {
  std::vector<std::string> doubts;
  std::map<fs::path, std::vector<Sample>> read;
  const auto rows_of = [&](const fs::path& file) -> const std::vector<Sample>& {
    const auto [place, is_new] = read.try_emplace(file);
    std::error_code unknown;
    if (!is_new || !fs::exists(file, unknown)) return place->second;
    std::vector<BadRow> bad;
    place->second = read_manifest(file, config.data.skip_bad, &bad);
    if (!bad.empty()) {
      doubts.push_back(fmt::format("{} of {} rows of {} are left out; the first: {}", bad.size(),
                                   place->second.size() + bad.size(), file.string(), bad.front().reason));
    }
    return place->second;
  };
  const std::vector<Sample>& train = rows_of(config.data.train);
  for (std::string& doubt : text_doubts(config, train)) doubts.push_back(std::move(doubt));
  for (const fs::path& file : config.data.eval) {
    std::vector<Sample> set = rows_of(file);
    const auto most = static_cast<std::size_t>(config.train.eval_images);
    if (most > 0 && set.size() > most) set.resize(most);
    const Overlap overlap = find_overlap(train, set);
    if (overlap.any()) doubts.push_back(overlap_text(file, overlap, config.data.train));
  }
  return doubts;
}

}  // namespace biqa
