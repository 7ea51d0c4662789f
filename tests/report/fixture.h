// SPDX-License-Identifier: Apache-2.0
// Run folders as a training would leave them.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/image.h"
#include "reward/table.h"
#include "run/records.h"
#include "support/temporary_folder.h"

namespace biqa::testing {

/// A run of `steps` steps whose figures follow from `shift`: reward_mean = shift + step / 10.
struct ExampleRun {
  std::string name = "run";
  std::int64_t seed = 0;
  double lr = 0.001;
  std::int64_t steps = 4;
  double shift = 0;
  bool finished = true;
};

inline StepMetrics example_step(const ExampleRun& run, std::int64_t number) {
  StepMetrics step;
  step.step = step.version = number;
  step.step_seconds = 4;
  step.rollout_seconds = 2;
  step.stage2_seconds = 0.5;
  step.reward_seconds = 0.25;
  step.learn_seconds = 1;
  step.generated_tokens = 300;
  step.stage2_tokens = 100;
  step.trajectories = 8;
  step.traffic_bytes = 2500;
  step.reward_mean = run.shift + static_cast<double>(number) / 10;
  step.reward_std = 0.5;
  for (double& mean : step.reward_means) mean = 0.25;
  for (double& deviation : step.reward_stds) deviation = 0.125;
  for (double& weight : step.reward_weights) weight = 1;
  step.reward_weights.at(reward_column("reasoning")) = static_cast<double>(number) / 4;  // a schedule
  step.parse_rate = 1;
  step.loss = -0.5;
  step.kl = 0.001 * static_cast<double>(number);
  return step;
}

inline EvalMetrics example_evaluation(const ExampleRun& run, std::int64_t step,
                                      const std::string& condition) {
  EvalMetrics eval;
  eval.step = step;
  eval.set = "test";
  eval.condition = condition;
  eval.decoding = "greedy";
  eval.n = 20;
  eval.parse_failures = step == 0 ? 3 : 1;
  eval.plcc = run.shift + (step == 0 ? 0.25 : 0.625) - (condition == "caption" ? 0.125 : 0);
  eval.srcc = eval.plcc - 0.0625;
  eval.rmse = 1.5 - run.shift;
  if (condition == "image") eval.rouge1_r = 0.375 - run.shift;
  return eval;
}

inline SampleRecord example_sample(std::int64_t step, const std::string& id, std::int64_t member,
                                   double rating, double score = 3) {
  SampleRecord sample;
  sample.step = step;
  sample.id = id;
  sample.member = member;
  sample.caption = fmt::format("caption of {} in step {}", id, step);
  sample.reasoning = "because";
  sample.rating = rating;
  sample.stage2_text = "<rating>3.00</rating>";
  sample.stage2_rating = 3.0;
  sample.score = score;
  sample.rewards = {{"prediction", 0.75}, {"consistency", 0.5}, {"reasoning", 0.25}, {"format", 0.5}};
  sample.advantage = 1.25;
  return sample;
}

inline std::string example_config(const ExampleRun& run, const std::filesystem::path& manifest) {
  return fmt::format(
      "model:\n  path: \"models/tiny\"\n  adapter: \"\"\n  threads: {}\noptimizer: {{lr: {}}}\ndata:\n  "
      "train: \"{}\"\n"
      "rewards: {{prediction: 1, reasoning: 0.5}}\ntrain:\n  steps: {}\n  seed: {}\n  out: \"runs/{}\"\n",
      1 + run.seed % 2, run.lr, manifest.string(), run.steps, run.seed, run.name);
}

/// Writes the folder with two pictures p0 and p1, of which p1 is missing on the disk.
inline std::filesystem::path write_run(const TemporaryFolder& folder, const ExampleRun& run) {
  Image image{400, 200, std::vector<std::uint8_t>(400 * 200 * 3, 120)};
  write_png(folder.path() / "p0.png", image);
  const std::filesystem::path manifest = folder.write("train.jsonl",
                                                      "{\"id\":\"p0\",\"image\":\"p0.png\",\"score\":3}\n"
                                                      "{\"id\":\"p1\",\"image\":\"gone.png\",\"score\":3}\n");
  std::filesystem::path root = folder.path() / run.name;
  std::string metrics, samples;
  for (const char* condition : {"image", "caption"})
    metrics += to_json_line(example_evaluation(run, 0, condition)) + "\n";
  for (std::int64_t step = 1; step <= run.steps; ++step) {
    metrics += to_json_line(example_step(run, step)) + "\n";
    samples += to_json_line(example_sample(step, "p0", 0, 3.5)) + "\n";
    samples += to_json_line(example_sample(step, "p1", 0, 1.5)) + "\n";
  }
  for (const char* condition : {"image", "caption"})
    metrics += to_json_line(example_evaluation(run, run.steps, condition)) + "\n";
  folder.write(run.name + "/config.yaml", example_config(run, manifest));
  folder.write(run.name + "/metrics.jsonl", metrics);
  folder.write(run.name + "/samples.jsonl", samples);
  if (run.finished) folder.write(run.name + "/adapter.h5", "adapter");
  return root;
}

}  // namespace biqa::testing
