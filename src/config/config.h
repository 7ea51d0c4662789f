// SPDX-License-Identifier: Apache-2.0
// The YAML configuration of a run, one struct per section. docs/configuration.md describes each key.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "actor/options.h"
#include "comm/roles.h"
#include "core/names.h"
#include "data/preprocess.h"
#include "data/prompts.h"
#include "learner/advantage.h"
#include "learner/objective.h"
#include "learner/options.h"
#include "model/lora.h"
#include "ops/backends.h"
#include "reward/rewards.h"
#include "tensor/dtype.h"

namespace biqa {

struct ModelSettings {
  std::filesystem::path path;     ///< checkpoint folder in Hugging Face format
  std::filesystem::path adapter;  ///< initial adapter of the policy and adapter of the KL term; empty: none
  DType dtype = DType::bf16;      ///< of the base weights and activations: bf16 or f32
  std::string device = DeviceChoice{}.device;  ///< cpu or cuda
  VisionAttentionBy vision_attention = DeviceChoice{}.vision_attention;
  std::int64_t max_pixels = 401408, min_pixels = 3136;  ///< area of an image after resizing, pixels
  /// Whether the configuration sets them. Set values replace the limits of the model folder; defaults only narrow them.
  bool max_pixels_given = false, min_pixels_given = false;
  PixelLimits pixels() const { return {min_pixels, max_pixels, min_pixels_given, max_pixels_given}; }
  double gpu_tflops =
      0;  ///< peak of one GPU in bf16 products, 1e12 operations per second; 0: by its data sheet
  int threads =
      DeviceChoice{}.threads;  ///< per rank; 0: as many as the rank's share of its node's processors
};

struct DataSettings {
  std::filesystem::path train;              ///< manifest
  std::vector<std::filesystem::path> eval;  ///< manifests
  double annotation_fraction =
      1.0;                ///< fraction of the training images with human text whose text is used, 0..1
  bool skip_bad = false;  ///< leave bad manifest rows out and list them
};

struct RolloutSettings {
  std::int64_t group_size = RolloutOptions{}.group_size;  ///< trajectories per image
  std::int64_t images_per_step = 64;
  double temperature = SamplingParameters{}.temperature;
  std::int64_t top_k = SamplingParameters{}.top_k;  ///< 0: off
  double top_p = SamplingParameters{}.top_p;        ///< 1: off
  std::int64_t max_new_tokens = SamplingParameters{}.max_new_tokens,
               stage2_max_new_tokens = RolloutOptions{}.stage2_max_new_tokens;
  std::uint64_t kv_memory = static_cast<std::uint64_t>(EngineOptions{}.kv_bytes);  ///< bytes per actor rank
  /// how often further images are drawn in place of groups without variance
  std::int64_t refill_rounds = LossRow{}.refill_rounds;
  std::int64_t policy_lag = 0;  ///< exact number of steps by which the sampling adapter is older
};

enum class Stage2Input : std::uint8_t { caption, caption_reasoning };
enum class LeakGuard : std::uint8_t { off, strip, penalise };

struct Stage2Settings {
  bool enabled = RolloutOptions{}.stage2;
  Stage2Input input = Stage2Input::caption;  ///< text that replaces {caption}
  bool train = false;                        ///< train on second-stage tokens too
  LeakGuard leak_guard = LeakGuard::strip;
};

/// `prompts`: missing texts are those of default_prompts(profile).
struct PromptSettings {
  std::string profile = "paper";  ///< one of kProfileNames
  PromptTexts texts = default_prompts(named_profile("paper"));
};

/// The tokens of a trajectory in whose advantage a reward counts.
enum class CreditAssignment : std::uint8_t {
  whole,  ///< all of them: one advantage per trajectory
  parts   ///< those of the parts that earn the reward (Credit in reward/table.h; formula: training/credit.h)
};
inline constexpr std::array kCreditAssignmentNames{Named<CreditAssignment>{"whole", CreditAssignment::whole},
                                                   Named<CreditAssignment>{"parts", CreditAssignment::parts}};

struct ObjectiveSettings {
  ObjectiveConfig loss;
  AdvantageConfig advantage;
  CreditAssignment credit = CreditAssignment::whole;
  /// groups whose completions all have the same reward are left out of the loss
  bool drop_zero_variance = LossRow{}.drop_zero_variance;
  bool mask_truncated =
      LossRow{}.mask_truncated;  ///< completions cut off by the length limit are left out of the loss
  std::int64_t updates_per_rollout = 1;
  std::int64_t micro_batch_tokens =
      LearnerOptions{}.micro_batch_tokens;  ///< maximum of tokens in one forward and backward pass
  /// keep only layer inputs and recompute the rest: less memory, more time
  bool recompute_layers = LearnerOptions{}.recompute_layers;
};

struct OptimizerSettings {
  double lr = 1e-6;
  Schedule schedule = Schedule::linear;
  std::int64_t warmup_steps = 0;
  AdamWConfig adamw;
  double max_grad_norm = LearnerOptions{}.max_grad_norm;  ///< 0: no clipping
};

struct TrainSettings {
  std::int64_t epochs = 2;
  std::int64_t steps = 0;  ///< 0: as many as `epochs` gives
  std::uint64_t seed = 42;
  /// run folder; default runs/NAME, NAME = name of the configuration file without extension
  std::filesystem::path out;
  std::vector<std::int64_t> dump_steps;  ///< steps (from 1) that write dumps/step-*.h5
  std::int64_t eval_every = 0;  ///< steps between evaluations; 0: before the first and after the last only
  std::vector<std::string> eval_decodings{"greedy", "sampled"};
  std::int64_t eval_images = 0;       ///< images to evaluate per set, from its start; 0: all
  std::int64_t samples_per_step = 0;  ///< trajectories per step in samples.jsonl; 0: all
  bool progress = true;               ///< progress on standard error
};

struct CheckpointSettings {
  std::int64_t every = 10;  ///< steps; 0: at the end only
  /// number of newest checkpoints to keep, in addition to the best; 0: all
  std::int64_t keep = 3;
  /// evaluation metric that decides which checkpoint is best (greedy, averaged over sets), or none
  std::string best = "caption_plcc";
  std::string resume = "auto";          ///< auto, never or a checkpoint folder
  std::string save_signal = "SIGUSR1";  ///< saves at the end of the step; SIGUSR1, SIGUSR2, SIGHUP or none
};

struct Config {
  std::filesystem::path file;  ///< the file that was read; empty: only defaults
  ModelSettings model;
  LoraSpec lora;
  DataSettings data;
  PromptSettings prompts;
  RolloutSettings rollout;
  Stage2Settings stage2;
  RewardConfig rewards;  ///< penalise_leak and second_stage_reads_reasoning follow stage2
  ObjectiveSettings objective;
  OptimizerSettings optimizer;
  TrainSettings train;
  CheckpointSettings checkpoint;
  RoleConfig roles;
};

/// Reads a configuration. `overrides` ("a.b=value", value in YAML) replace values of the file, the last one wins.
/// Missing keys keep their defaults; those of clip_high, drop_zero_variance, mask_truncated and
/// refill_rounds depend on objective.loss. Relative paths, also those of overrides, start at the file's folder. Only `train.out` starts at the
/// working directory. All are made absolute. Does not check whether files exist. Throws Error (usage) with file:line
/// and key: unknown key (with the nearest valid one), wrong type, wrong range, settings that contradict each other.
Config load_config(const std::filesystem::path& file, std::span<const std::string> overrides = {});

/// Throws Error (usage) naming the first key that training needs but the configuration does not set.
void require_training_keys(const Config& config);

/// The resolved configuration with every key and absolute paths. load_config of this text gives the same configuration.
std::string to_yaml(const Config& config);

/// Lists the settings of `now` that are different or missing in `then`, as "section.key: value". `then` is a text that
/// to_yaml returned.
std::vector<std::string> changed_settings(const std::string& then, const Config& now);

/// "a.b" of every key, in the order of to_yaml.
std::vector<std::string> config_keys();

/// "4GiB", "512 MiB", "1.5 GB", "4096" → bytes; nullopt if the text is not a size.
std::optional<std::uint64_t> parse_size(const std::string& text);
/// The shortest exact text: 4294967296 → "4GiB", 1000 → "1000".
std::string size_text(std::uint64_t bytes);

}  // namespace biqa
