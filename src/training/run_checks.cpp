// SPDX-License-Identifier: Apache-2.0
#include "training/run_checks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "actor/engine.h"
#include "core/error.h"
#include "learner/checkpoint_tools.h"
#include "model/checkpoint.h"
#include "ops/backends.h"
#include "semantic/polarity.h"
#include "semantic/sentence_encoder.h"
#include "training/meaning_judge.h"

namespace biqa {
namespace {

std::int64_t prompt_tokens(const PromptSource& source, const std::optional<std::string>& system,
                           std::span<const std::int64_t> images, std::string_view user) {
  return static_cast<std::int64_t>(
      render_prompt(source.tokenizer, source.chat, system, images, user).ids.size());
}

/// A sample whose image gives the longest prompt.
const Sample& largest(std::span<const Sample> samples, const PreprocessConfig& preprocess) {
  return *std::max_element(samples.begin(), samples.end(), [&](const Sample& a, const Sample& b) {
    return image_tokens(a.size, preprocess) < image_tokens(b.size, preprocess);
  });
}

}  // namespace

void require_inputs(const Config& config) {
  require_training_keys(config);
  std::vector<std::string> missing;
  const auto need = [&](const char* key, const std::filesystem::path& path, bool folder) {
    std::error_code unknown;
    const bool there =
        folder ? std::filesystem::is_directory(path, unknown) : std::filesystem::exists(path, unknown);
    if (!there) missing.push_back(fmt::format("{} {}", key, path.string()));
  };
  need("model.path", config.model.path, true);
  if (!config.model.adapter.empty()) need("model.adapter", config.model.adapter, false);
  need("data.train", config.data.train, false);
  for (const std::filesystem::path& file : config.data.eval) need("data.eval", file, false);
  if (!config.rewards.similarity_model.empty())
    need("rewards.similarity_model", config.rewards.similarity_model, true);
  if (!config.rewards.lexicon.empty()) need("rewards.lexicon", config.rewards.lexicon, false);
  if (missing.empty()) return;
  fail("cannot start with {}: {} missing: {}; put {} there, or name another path with --set KEY=PATH",
       config.file.empty() ? "this configuration" : config.file.string(),
       missing.size() == 1 ? "this is" : "these are", fmt::join(missing, ", "),
       missing.size() == 1 ? "it" : "them");
}

void check_inputs(const Config& config) {
  require_inputs(config);
  const auto check = [&](const char* key, const std::filesystem::path& path, const auto& open) {
    try {
      open();
    } catch (const Error& error) {
      fail("cannot start with {}: {} {}: {}",
           config.file.empty() ? "this configuration" : config.file.string(), key, path.string(),
           error.what());
    }
  };
  const std::filesystem::path& model = config.model.path;
  check("model.path", model, [&] { Checkpoint::open(model, ModelConfig::load(model)); });
  if (!config.model.adapter.empty())
    check("model.adapter", config.model.adapter, [&] { find_adapter(config.model.adapter); });
  const RewardConfig& rewards = config.rewards;
  if (needs_sentence_encoder(config))
    check("rewards.similarity_model", rewards.similarity_model,
          [&] { SentenceEncoder::open(rewards.similarity_model, 1); });
  if (!rewards.lexicon.empty())
    check("rewards.lexicon", rewards.lexicon, [&] { Lexicon::open(rewards.lexicon); });
}

void check_training_data(const Config& config, std::span<const Sample> train) {
  if (static_cast<std::int64_t>(train.size()) < config.rollout.images_per_step) {
    fail_usage("rollout.images_per_step {} is more than the {} images of {}: lower it",
               config.rollout.images_per_step, train.size(), config.data.train.string());
  }
  if (!row_of(config.objective.loss.loss).imitates) return;
  for (const Sample& sample : train) {
    if (!sample.completion.empty()) continue;
    fail(
        "cannot train with objective.loss sft: sample {} of {} has no \"completion\"; add the completion to "
        "learn from",
        sample.id, config.data.train.string());
  }
}

std::vector<std::string> schedule_doubts(const Config& config, std::int64_t steps) {
  std::vector<std::string> doubts;
  if (row_of(config.objective.loss.loss).imitates) return doubts;
  for (std::size_t i = 0; i < rewards().size(); ++i) {
    const WeightSchedule& weight = config.rewards.weights[i];
    const WeightSchedule::Point& end = weight.points().back();
    if (weight.constant() || end.step <= steps) continue;
    doubts.push_back(
        fmt::format("the schedule of rewards.{} ends at step {}, but the run at step {}: the weight ends at "
                    "{:.4g}, not {}",
                    rewards()[i].name, end.step, steps, weight.at(steps), end.weight));
  }
  return doubts;
}

std::vector<std::string> text_doubts(const Config& config, std::span<const Sample> train) {
  if (row_of(config.objective.loss.loss).imitates || config.data.annotation_fraction == 0) return {};
  const auto& points = config.rewards.weights[reward_column("reasoning")].points();
  const bool weighs = std::any_of(points.begin(), points.end(),
                                  [](const WeightSchedule::Point& point) { return point.weight != 0; });
  const bool has_text = std::any_of(train.begin(), train.end(),
                                    [](const Sample& sample) { return !sample.human_text().empty(); });
  if (!weighs || has_text || train.empty()) return {};
  return {fmt::format(
      "rewards.reasoning has a weight, but no image of {} has a human text: the reward is the same for all "
      "completions and teaches nothing; use a manifest with texts (biqa_data import q-reasoning), or set "
      "rewards.reasoning to 0",
      config.data.train.string())};
}

std::int64_t image_tokens(const ImageSize& size, const PreprocessConfig& preprocess) {
  const Size resized = smart_resize(size.height, size.width, preprocess.factor(), preprocess.min_pixels,
                                    preprocess.max_pixels);
  return resized.height / preprocess.factor() * (resized.width / preprocess.factor());
}

void check_lengths(const Config& config, const PromptSource& source, std::span<const Sample> train,
                   std::span<const std::vector<Sample>> evaluation) {
  const PromptTexts& texts = config.prompts.texts;
  const auto refuse_unless_fits = [&](const std::string& what, std::int64_t prompt, std::int64_t members,
                                      std::int64_t new_tokens) {
    const std::string why = Engine::obstacle(
        source.model, kv_layout({config.model.device, config.model.dtype, 0}, head_shape(source.model.text)),
        static_cast<std::int64_t>(config.rollout.kv_memory), prompt, members, new_tokens);
    if (!why.empty()) fail("cannot run {}: {}", what, why);
  };
  const auto check_picture = [&](std::span<const Sample> samples, std::int64_t members) {
    if (samples.empty()) return;
    const Sample& sample = largest(samples, source.preprocess);
    const std::int64_t tokens = image_tokens(sample.size, source.preprocess);
    refuse_unless_fits("image " + sample.image.string(),
                       prompt_tokens(source, texts.system, std::span(&tokens, 1), texts.user), members,
                       config.rollout.max_new_tokens);
  };
  const bool sft = row_of(config.objective.loss.loss).imitates;
  if (!sft) check_picture(train, config.rollout.group_size);
  for (const std::vector<Sample>& set : evaluation) check_picture(set, 1);
  if (!evaluation.empty() || (!sft && config.stage2.enabled)) {
    refuse_unless_fits("second stage, even with an empty caption",
                       prompt_tokens(source, texts.stage2_system, {}, fill(texts.stage2_user, "")), 1,
                       config.rollout.stage2_max_new_tokens);
  }
  if (!sft || source.model.text.max_position <= 0) return;
  const std::int64_t text_tokens = prompt_tokens(source, texts.system, {}, texts.user) + 2;
  for (const Sample& sample : train) {
    const std::int64_t length =
        text_tokens + image_tokens(sample.size, source.preprocess) +
        static_cast<std::int64_t>(completion_ids(source.tokenizer, source.chat, sample.completion).size());
    if (length <= source.model.text.max_position) continue;
    fail(
        "cannot learn from the completion of sample {} of {}: with its prompt it has {} tokens, but the "
        "model has {} positions; shorten it, or lower model.max_pixels",
        sample.id, config.data.train.string(), length, source.model.text.max_position);
  }
}

}  // namespace biqa
