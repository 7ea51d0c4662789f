// SPDX-License-Identifier: Apache-2.0
// Estimates the needs of a run before it starts: ranks, memory by part, tokens, operations and time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/roles.h"
#include "config/config.h"
#include "ops/cuda/device.h"
#include "planning/memory_plan.h"
#include "planning/step_parts.h"

namespace biqa {

/// The speeds from which the times of a step on GPUs are computed. Unless given, `share` is kShare, and the other two
/// are those of the card's data sheet.
struct GpuRates {
  /// Share of the peak and of the bandwidth that is reached. Assumed: nothing has been measured on a GPU.
  static constexpr double kShare = 0.4;
  /// CUDA's name of the device (ops/gpu_cards.h). Empty: the GPU of this machine or, without one, an H100.
  std::string card;
  double peak_flop = 0;  ///< operations per second of bf16 products
  double bandwidth = 0;  ///< bytes per second of the GPU's memory
  double share = 0;
  std::string origin;  ///< of the card: given, here or assumed
  bool peak_given = false, bandwidth_given = false, share_given = false;
};

/// Values are of one step unless stated otherwise. Token counts are upper bounds: every completion has the maximum
/// length.
struct RunPlan {
  std::string device = "cpu";
  GpuRates gpu;                     ///< device cuda: with which the times are computed
  std::optional<DeviceFacts> here;  ///< device cuda: the GPU of this process, if there is one
  RolePlan roles;
  std::int64_t ranks = 0, threads = 0;  ///< threads of each rank
  std::int64_t training_images = 0, evaluation_images = 0, steps = 0;
  std::int64_t images = 0, trajectories = 0;
  std::int64_t image_tokens = 0, prompt_tokens = 0, stage2_prompt_tokens = 0;  ///< of one prompt
  std::int64_t rollout_tokens = 0;                                             ///< generated, both stages
  std::int64_t trained_rows =
      0;  ///< tokens processed by the learners: the prompts of the first stage, and all completions
  std::int64_t trained_prompts =
      0;  ///< of the first stage: one for each group, or for each piece of a divided one
  /// Upper bounds: further images that replace groups without variance, and the rounds in which they are drawn. The
  /// other numbers do not include them.
  std::int64_t further_images = 0, refill_rounds = 0;
  std::string reward_weights;  ///< "prediction 1, reasoning {0: 0, 100: 1}"; empty if the loss has no rewards
  StepParts operations;        ///< upper bounds, as the tokens
  StepParts cpu_rates;         ///< device cpu: operations per second of a rank, measured by make_plan()
  std::int64_t waves = 1;      ///< parts of a step, if the KV cache cannot hold all groups
  double rollout_seconds = 0, learn_seconds = 0;  ///< at these rates, divided among the ranks of the role
  std::string fullest;                            ///< role of the rank that needs the most memory
  MemoryPlan memory;                              ///< of that rank; with cuda, of its GPU
  std::vector<MemoryPlan> rank_memory;            ///< of each rank
  std::int64_t node_ranks = 1;  ///< ranks on a node, as the launcher reports it; otherwise all
  /// peak memory of the node that needs the most; shared weights count once
  std::int64_t node_bytes = 0;
  std::int64_t node_shared_bytes = 0;    ///< part of it: shared weights
  std::vector<std::string> assumptions;  ///< assumptions made because a file does not exist yet
  /// schedule_doubts(); the caller may add data_doubts()
  std::vector<std::string> doubts;
  double step_seconds() const { return rollout_seconds + learn_seconds; }
  /// Seconds of a step with all further images. A round takes at most the rollout time of the step's own images. A
  /// further image takes the learners as long as one of the step's own.
  double longest_step_seconds() const;
};

/// Reads the model's configuration, its tokenizer, the manifests and the headers of the images, but no weights. Throws
/// the same Errors as a run. But weights and manifests may be missing; then `assumptions` lists what the plan assumes.
/// `processors`: per rank; 0: the ranks share those that this process may use. `rates`: for device cuda. With device cpu, it
/// measures for some seconds how fast this machine is (planning/cpu_speed.h).
RunPlan make_plan(const Config& config, int ranks, int processors = 0, const GpuRates& rates = {});
/// As make_plan(), but without rates and times, so it measures nothing.
RunPlan count_plan(const Config& config, int ranks, int processors = 0);
/// What a run would warn of: rows that data.skip_bad leaves out, missing human texts, evaluation sets that share images
/// with the training set.
/// Reads the manifests and the headers of the images.
std::vector<std::string> data_doubts(const Config& config);
/// Readable text, several lines.
std::string describe_plan(const RunPlan& plan);

}  // namespace biqa
