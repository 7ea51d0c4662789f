// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "config/config.h"
#include "core/error.h"
#include "io/yaml.h"
#include "model/config.h"
#include "model/lora.h"
#include "planning/plan.h"
#include "planning/scale.h"
#include "run/records.h"
#include "training/messages.h"

namespace biqa {
namespace {

template <typename Count>
double number(Count count) {
  return static_cast<double>(count);
}

template <typename Inputs, typename Visit>
void visit_inputs(Inputs& in, Visit visit) {
  visit("images", in.images);
  visit("group_size", in.group_size);
  visit("prompt_tokens", in.prompt_tokens);
  visit("length_mean_tokens", in.length_mean_tokens);
  visit("length_deviation", in.length_deviation);
  visit("max_new_tokens", in.max_new_tokens);
  visit("stage2_tokens", in.stage2_tokens);
  visit("adapter_bytes", in.adapter_bytes);
  visit("group_bytes", in.group_bytes);
  visit("checkpoint_every", in.checkpoint_every);
  visit("policy_lag", in.policy_lag);
  visit("group_start_seconds", in.group_start_seconds);
  visit("stage2_start_seconds", in.stage2_start_seconds);
  visit("iteration_seconds", in.iteration_seconds);
  visit("token_seconds", in.token_seconds);
  visit("reward_group_seconds", in.reward_group_seconds);
  visit("learn_start_seconds", in.learn_start_seconds);
  visit("learn_group_seconds", in.learn_group_seconds);
  visit("learn_token_seconds", in.learn_token_seconds);
  visit("apply_seconds", in.apply_seconds);
  visit("link_bytes_per_second", in.link_bytes_per_second);
  visit("latency_seconds", in.latency_seconds);
  visit("message_seconds", in.message_seconds);
  visit("sum_bytes_per_second", in.sum_bytes_per_second);
  visit("sleeps", in.sleeps);
  visit("disk_bytes_per_second", in.disk_bytes_per_second);
  visit("disk_rank_bytes_per_second", in.disk_rank_bytes_per_second);
  visit("file_seconds", in.file_seconds);
  visit("cores", in.cores);
  visit("idle_core_share", in.idle_core_share);
  visit("steps", in.steps);
  visit("seed", in.seed);
}

}  // namespace

void set_scale_input(ScaleInputs& inputs, const std::string& name, const std::string& value,
                     const std::string& where) {
  if (name == "max_policy_lag") return set_scale_input(inputs, "policy_lag", value, where);  // its old name
  bool known = false;
  std::vector<std::string> names;
  YamlNode scalar;
  scalar.kind = YamlKind::scalar;
  scalar.text = value;
  const auto refuse = [&](const char* expected) {
    fail_usage("{}: {} is '{}'; it must be {}", where, name, value, expected);
  };
  visit_inputs(inputs, [&](const char* field, auto& target) {
    names.emplace_back(field);
    if (name != field) return;
    known = true;
    using Value = std::remove_reference_t<decltype(target)>;
    if constexpr (std::is_same_v<Value, bool>) {
      const std::optional<bool> parsed = yaml_boolean(scalar);
      if (!parsed) refuse("true or false");
      target = *parsed;
    } else {
      const double parsed = yaml_number(scalar).value_or(-1);
      if (!(parsed >= 0 && parsed <= 1e18)) refuse("a number of at least 0");
      if constexpr (std::is_integral_v<Value>) {
        const bool count = name == "images" || name == "group_size" || name == "steps";
        if (parsed != std::floor(parsed) || (count && parsed < 1)) refuse("a whole number in range");
        target = static_cast<Value>(parsed);
      } else {
        target = parsed;
      }
    }
  });
  if (!known) fail_usage("{}: unknown input '{}'; the inputs are {}", where, name, fmt::join(names, ", "));
}

void read_scale_inputs(ScaleInputs& inputs, const std::filesystem::path& file) {
  const YamlNode root = read_yaml(file);
  if (root.kind != YamlKind::map)
    fail_usage("{}: it must be a map of inputs, one `name: number` per line", file.string());
  for (const YamlNode& node : root.children) {
    if (node.kind != YamlKind::scalar) fail_usage("{}: {} must be a single value", node.where, node.key);
    set_scale_input(inputs, node.key, node.text, node.where);
  }
}

std::string to_yaml(const ScaleInputs& inputs) {
  std::string text;
  visit_inputs(inputs,
               [&](const char* name, const auto& value) { text += fmt::format("{}: {}\n", name, value); });
  return text;
}

void calibrate(ScaleInputs& inputs, std::span<const MeasuredRun> runs) {
  CHECK(!runs.empty());
  struct Equation {
    double iterations = 0, tokens = 0, rollout = 0;  // iterations·i + tokens·t = rollout
    double rows = 0, learn = 0;                      // start + rows·r = learn
  };
  RoleConfig alone;
  const RolePlan roles = plan_roles(alone, 1);
  std::vector<Equation> equations;
  for (const MeasuredRun& run : runs) {
    ScaleInputs unit = inputs;
    unit.images = run.images;
    unit.length_mean_tokens = run.length_mean_tokens;
    unit.stage2_tokens = run.stage2_tokens;
    unit.group_start_seconds = unit.stage2_start_seconds = unit.token_seconds = unit.cores = 0;
    unit.iteration_seconds = 1;
    Equation equation;
    equation.iterations = simulate_step(unit, roles, 1).rollout_seconds;
    equation.tokens = number(run.images * inputs.group_size) * (run.length_mean_tokens + run.stage2_tokens);
    equation.rollout = run.rollout_seconds;
    equation.rows =
        number(run.images) * (inputs.prompt_tokens + number(inputs.group_size) * run.length_mean_tokens);
    equation.learn = run.learn_seconds;
    equations.push_back(equation);
  }
  const Equation& a = equations.front();
  inputs.group_start_seconds = inputs.stage2_start_seconds = inputs.learn_group_seconds = 0;
  inputs.iteration_seconds = inputs.learn_start_seconds = 0;
  if (equations.size() > 1) {
    const Equation& b = equations[1];
    const double determinant = a.iterations * b.tokens - b.iterations * a.tokens;
    if (determinant != 0)
      inputs.iteration_seconds = std::max(0.0, (a.rollout * b.tokens - b.rollout * a.tokens) / determinant);
    if (a.rows != b.rows)
      inputs.learn_start_seconds = std::max(0.0, (a.rows * b.learn - b.rows * a.learn) / (a.rows - b.rows));
  }
  inputs.token_seconds = std::max(0.0, a.rollout - a.iterations * inputs.iteration_seconds) / a.tokens;
  inputs.learn_token_seconds = std::max(0.0, a.learn - inputs.learn_start_seconds) / a.rows;
  inputs.reward_group_seconds = runs.front().reward_seconds / number(runs.front().images);
  inputs.apply_seconds = runs.front().sync_seconds;
}

namespace {

double median(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// Lengths of a run's completions relative to their mean, measured in bytes of text.
std::vector<double> relative_lengths(const std::filesystem::path& samples) {
  std::vector<double> lengths;
  if (!std::filesystem::exists(samples)) return lengths;
  read_samples(samples, [&](const SampleRecord& sample) { lengths.push_back(number(sample.text.size())); });
  const double mean =
      std::accumulate(lengths.begin(), lengths.end(), 0.0) / std::max(1.0, number(lengths.size()));
  if (mean <= 0) return {};
  for (double& length : lengths) length /= mean;
  return lengths;
}

}  // namespace

ScaleInputs read_scale_runs(std::span<const std::filesystem::path> folders, ScaleInputs machine,
                            RoleConfig& roles) {
  CHECK(!folders.empty());
  ScaleInputs inputs = std::move(machine);
  std::vector<MeasuredRun> runs;
  for (const std::filesystem::path& folder : folders) {
    std::vector<StepMetrics> steps = read_metrics(folder / "metrics.jsonl").steps;
    if (steps.empty())
      fail("cannot measure from {}: it has no steps; train some steps first, with data.eval=[]",
           (folder / "metrics.jsonl").string());
    if (std::filesystem::exists(folder / "logs" / "rank-00001.log"))
      fail("cannot measure from {}: it ran on several ranks; run it on one rank", folder.string());
    // The first step also warms up.
    if (steps.size() > 1) steps.erase(steps.begin());
    const auto middle = [&](auto value) {
      std::vector<double> values;
      values.reserve(steps.size());
      for (const StepMetrics& step : steps) values.push_back(value(step));
      return median(values);
    };
    MeasuredRun run;
    run.images = steps.front().images;
    const double members = number(std::max<std::int64_t>(1, steps.front().trajectories));
    run.rollout_seconds = middle([](const StepMetrics& m) { return m.rollout_seconds; });
    run.reward_seconds = middle([](const StepMetrics& m) { return m.reward_seconds; });
    run.learn_seconds = middle([](const StepMetrics& m) { return m.learn_seconds; });
    run.sync_seconds = middle([](const StepMetrics& m) { return m.sync_seconds; });
    run.length_mean_tokens = middle([](const StepMetrics& m) { return m.length_mean; });
    run.stage2_tokens = middle([](const StepMetrics& m) { return number(m.stage2_tokens); }) / members;
    runs.push_back(run);
    if (runs.size() > 1) continue;
    const Config config = load_config(folder / "config.yaml");
    roles = config.roles;
    if (config.rollout.refill_rounds > 0) {
      LOG(WARNING) << folder.string()
                   << " refills its steps (rollout.refill_rounds: " << config.rollout.refill_rounds
                   << "): a step may roll out up to "
                   << (1 + config.rollout.refill_rounds) * config.rollout.images_per_step
                   << " images in several rounds; the simulation has " << run.images << " in one round";
    }
    inputs.images = run.images;
    inputs.group_size = config.rollout.group_size;
    inputs.length_mean_tokens = run.length_mean_tokens;
    inputs.stage2_tokens = run.stage2_tokens;
    inputs.max_new_tokens = number(config.rollout.max_new_tokens);
    inputs.checkpoint_every = config.checkpoint.every;
    inputs.policy_lag = config.rollout.policy_lag;
    inputs.relative_lengths = relative_lengths(folder / "samples.jsonl");
    inputs.prompt_tokens = number(count_plan(config, 1).prompt_tokens);
    const LoraLayout layout(ModelConfig::load(config.model.path), config.lora);
    inputs.adapter_bytes = number(sizeof(float) * layout.size());
    // On a single rank, a group is sent twice, both times to this rank.
    const double sent = middle([](const StepMetrics& m) { return number(m.traffic_bytes); });
    inputs.group_bytes = std::max(0.0, (sent - number(sizeof(StepReport))) / 2 / number(run.images));
  }
  calibrate(inputs, runs);
  return inputs;
}

}  // namespace biqa
