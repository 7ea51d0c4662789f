// SPDX-License-Identifier: Apache-2.0
#include "app/model_flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "core/processors.h"
#include "data/profile_names.h"
#include "data/prompts.h"

namespace biqa {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kMostNewTokens = std::int64_t{1} << 20;

/// 0: the flag sets no limit.
std::int64_t limit_of(const CommandLine& line, const std::string& flag, std::int64_t most) {
  return line.has(flag) ? line.integer(flag, 0, most) : 0;
}

}  // namespace

std::vector<FlagInfo> with_model_flags(std::vector<FlagInfo> before, const std::vector<FlagInfo>& after) {
  const std::vector<FlagInfo> model{
      {"model", "DIR", "model folder; without it the model of --config or of the run in --adapter", ""},
      {"adapter", "PATH", "PEFT folder, adapter.h5, checkpoint or run folder", ""},
      {"config", "FILE",
       "configuration whose model, prompts and limits are used; without it, the config.yaml of the run or of "
       "the exported folder that --adapter names",
       ""},
      {"set", "KEY=VALUE…",
       "replace a value of the configuration (that of --config, or of the run in --adapter), e.g. "
       "rollout.max_new_tokens=8",
       ""},
      {"prompts", "PROFILE",
       fmt::format("prompt profile: {} or {}; without it the configuration's prompts, otherwise paper",
                   fmt::join(kProfileNames.begin(), kProfileNames.end() - 1, ", "), kProfileNames.back()),
       ""},
      {"greedy", "", "always take the most likely token; this is the default unless --seed is given", ""},
      {"seed", "N",
       "sample instead, at temperature 1, with this seed; the random numbers depend on the image's name", ""},
      {"max-new-tokens", "N",
       "maximum number of tokens in a completion; if absent or 0: the configuration's value, or without a "
       "configuration the lesser of 1024 and half of the model's positions",
       ""},
      {"max-pixels", "N",
       "shrink larger images to at most this number of pixels; if absent or 0: the configuration's value, or "
       "without a configuration the model folder's",
       ""},
      {"dtype", "TYPE", "f32 or bf16; without it the configuration's, otherwise f32", ""},
      {"device", "DEVICE", "cpu or cuda; without it the configuration's, otherwise cpu", ""},
      {"threads", "N",
       "threads; 0: OMP_NUM_THREADS or, if that is unset, all processors that the program may use", "0"}};
  before.insert(before.end(), model.begin(), model.end());
  before.insert(before.end(), after.begin(), after.end());
  return before;
}

std::optional<Config> find_config(const CommandLine& line) {
  if (line.has("adapter") && !fs::exists(line.text("adapter")))
    fail("cannot read adapter {}: no such file or folder; name a run, a checkpoint or a PEFT folder",
         line.text("adapter"));
  const std::vector<std::string> overrides = line.texts("set");
  if (line.has("config")) return load_config(line.text("config"), overrides);
  // An exported folder has its own config.yaml, other adapters lie in a run.
  if (line.has("adapter")) {
    fs::path folder = fs::absolute(line.text("adapter")).lexically_normal();
    for (int level = 0; level < 4 && folder.has_parent_path(); ++level, folder = folder.parent_path()) {
      if (fs::exists(folder / "config.yaml")) return load_config(folder / "config.yaml", overrides);
    }
  }
  if (!overrides.empty())
    fail_usage("flag --set is '{}', but there is no configuration to change; name one with --config",
               overrides.front());
  return std::nullopt;
}

PolicyOptions policy_options(const CommandLine& line, const std::optional<Config>& config, int processors) {
  PolicyOptions options;
  if (line.has("model"))
    options.path = line.text("model");
  else if (config && !config->model.path.empty())
    options.path = config->model.path;
  else
    fail_usage(
        "flag --model is missing: name a model folder, or a configuration with --config, or a run folder "
        "with --adapter");
  const std::string dtype = line.has("dtype") ? line.choice("dtype", {"f32", "bf16"})
                            : config && config->model.dtype == DType::bf16 ? "bf16"
                                                                           : "f32";
  options.dtype = dtype == "bf16" ? DType::bf16 : DType::f32;
  options.device = line.has("device") ? line.choice("device", {"cpu", "cuda"})
                   : config           ? config->model.device
                                      : "cpu";
  options.threads = threads_for(processors, static_cast<int>(line.integer("threads", 0, 1024)));
  // The configuration's choice was checked for its own device and type. With others, our own kernels compute.
  if (config && options.device == config->model.device && options.dtype == config->model.dtype)
    options.vision_attention = config->model.vision_attention;
  if (config) options.pixels = config->model.pixels();
  if (const std::int64_t asked = limit_of(line, "max-pixels", std::int64_t{1} << 31); asked > 0) {
    options.pixels.max = asked;
    options.pixels.max_given = true;
  }
  return options;
}

std::optional<Lora> read_adapter(const CommandLine& line, const std::optional<Config>& config,
                                 PolicyOptions& options) {
  const fs::path adapter = line.has("adapter") ? fs::path(line.text("adapter"))
                           : config            ? config->model.adapter
                                               : fs::path();
  if (adapter.empty()) return std::nullopt;
  Lora lora = read_adapter_for(options.path, adapter);
  options.frozen = lora.frozen;
  return lora;
}

RolloutOptions rollout_options(const CommandLine& line, const std::optional<Config>& config) {
  const Profile profile = named_profile(
      line.has("prompts") ? line.choice("prompts", {kProfileNames.begin(), kProfileNames.end()}) : "paper");
  if (line.on("greedy") && line.has("seed"))
    fail_usage("flags --greedy and --seed exclude each other: give one of them");
  RolloutOptions options;
  options.group_size = 1;
  options.prompts = config && !line.has("prompts") ? config->prompts.texts : default_prompts(profile);
  options.sampling.greedy = !line.has("seed");
  if (line.has("seed"))
    options.seed = static_cast<std::uint64_t>(line.integer("seed", 0, std::int64_t{1} << 62));
  if (config) {
    options.sampling.max_new_tokens = config->rollout.max_new_tokens;
    options.stage2_max_new_tokens = config->rollout.stage2_max_new_tokens;
    options.stage2_with_reasoning = config->stage2.input == Stage2Input::caption_reasoning;
    options.strip_ratings = config->stage2.leak_guard == LeakGuard::strip;
  }
  const std::int64_t limit = limit_of(line, "max-new-tokens", kMostNewTokens);
  if (limit > 0) options.sampling.max_new_tokens = limit;
  return options;
}

void fit_to_model(const CommandLine& line, const std::optional<Config>& config, const Policy& policy,
                  RolloutOptions& options) {
  const std::int64_t positions = policy.model->config().text.max_position;
  if (!config && limit_of(line, "max-new-tokens", kMostNewTokens) == 0 && positions > 0)
    options.sampling.max_new_tokens = std::min(options.sampling.max_new_tokens, positions / 2);
}

}  // namespace biqa
