// SPDX-License-Identifier: Apache-2.0
#include "training/run_start.h"

#include <glog/logging.h>

#include <algorithm>
#include <system_error>

#include "core/error.h"
#include "evaluation/evaluation_pass.h"
#include "io/hdf5.h"
#include "learner/checkpoint_store.h"
#include "run/run_folder.h"

namespace biqa {
namespace {

/// As `resumed_step`, it makes RunFolder delete every line of an earlier run.
constexpr std::int64_t kBeforeAll = -1;

std::filesystem::path checkpoints_of(const Config& config) {
  return config.train.out / "checkpoints";
}

/// Whether the run in train.out was started with the same checkpoint.resume. Then the same command resumes that run.
bool began_with(const Config& config, const std::string& resume) {
  const std::filesystem::path file = config.train.out / "config.yaml";
  try {
    return std::filesystem::exists(file) && load_config(file).checkpoint.resume == resume;
  } catch (const Error&) {
    return false;
  }
}

/// Warns of settings that have changed since the checkpoint was written. `then`: the checkpoint's settings; empty for
/// an imported adapter.
void warn_of_changes(const Config& config, const std::string& then) {
  if (then.empty()) return;
  for (const std::string& line : changed_settings(then, config)) {
    // These settings name folders and do not change the training.
    if (line.starts_with("checkpoint.resume:") || line.starts_with("train.out:")) continue;
    if (line.starts_with("train.seed:") && config.checkpoint.resume == "auto") {
      fail_usage(
          "cannot resume {}: it began with another train.seed, so this is another run; set train.out to "
          "another folder",
          config.train.out.string());
    }
    LOG(WARNING) << "resuming with a changed setting: " << one_line(line);
  }
}

/// Whether the run in this folder has nothing to resume from, and starting again loses nothing.
bool ended_before_a_checkpoint(const Config& config) {
  return config.checkpoint.resume == "auto" && !std::filesystem::exists(config.train.out / "adapter.h5") &&
         CheckpointStore(checkpoints_of(config)).newest_first().empty();
}

/// Whether all results of a run exist and belong to this step.
bool has_results(const std::filesystem::path& out, std::int64_t step) {
  try {
    return std::filesystem::exists(out / "adapter" / "adapter_config.json") &&
           std::filesystem::exists(out / "curves.svg") && std::filesystem::exists(out / "adapter.h5") &&
           Hdf5File(out / "adapter.h5").attribute_i64("/", "step") == step;
  } catch (const Error&) {
    return false;
  }
}

/// The evaluations in metrics.jsonl. Warns if it ends before `step`, after a power failure for example.
std::map<std::int64_t, std::vector<EvalMetrics>> read_evaluations(const std::filesystem::path& file,
                                                                  std::int64_t step) {
  std::map<std::int64_t, std::vector<EvalMetrics>> evaluations;
  if (step == 0 || !std::filesystem::exists(file)) return evaluations;
  const MetricsFile before = read_metrics(file);
  for (const EvalMetrics& figure : before.evaluations) evaluations[figure.step].push_back(figure);
  const std::int64_t last = before.steps.empty() ? step : before.steps.back().step;
  if (last < step)
    LOG(WARNING) << one_line(file.string()) << " ends with step " << last
                 << ", but the checkpoint is from step " << step << ": the lines between them are lost";
  return evaluations;
}

}  // namespace

std::int64_t possible_lag(const Config& config, const RolePlan& roles, bool tell) {
  const std::int64_t asked = config.rollout.policy_lag;
  const bool apart = std::none_of(roles.actors.begin(), roles.actors.end(),
                                  [&](int rank) { return roles.is_learner(rank); });
  if (!apart && asked > 0 && tell)
    LOG(WARNING) << "rollout.policy_lag " << asked
                 << ": every actor of this job is also a learner, so it runs on-policy (lag 0)";
  return apart && !row_of(config.objective.loss.loss).imitates ? asked : 0;
}

ResumeCandidates resume_candidates(const Config& config) {
  const std::filesystem::path own = checkpoints_of(config);
  const std::string& asked = config.checkpoint.resume;
  if (asked == "never") return {};
  const auto own_folders = CheckpointStore(own).newest_first();
  if (asked == "auto" || (!own_folders.empty() && began_with(config, asked))) return {own_folders, false, ""};
  std::error_code ignored;
  const std::filesystem::path start = asked;
  if (!std::filesystem::is_directory(start, ignored))
    fail("cannot resume from {}: no such folder; name a checkpoint or a run", asked);
  const bool is_own = std::filesystem::equivalent(start.parent_path(), own, ignored);
  if (!is_own && (!own_folders.empty() || holds_a_run(config.train.out)) && !began_with(config, asked)) {
    fail_usage(
        "cannot resume from {} into {}: that folder contains another run; set train.out to another folder, "
        "or "
        "checkpoint.resume: auto to resume that run",
        asked, config.train.out.string());
  }
  if (!std::filesystem::exists(start / "checkpoints", ignored)) return {{start}, true, ""};
  return {CheckpointStore(start / "checkpoints").newest_first(), false, asked};
}

void check_resumed(const Config& config, const FoundCheckpoint& found, const LoraLayout& layout,
                   const TrainedOn& now) {
  if (!(*found.adapter.layout == layout)) {
    fail(
        "cannot resume from {}: its adapter has other modules or ranks than the configuration; use the lora "
        "settings of the run's config.yaml, or set train.out to another folder",
        found.path.string());
  }
  const auto differs = [](const std::string& then, const std::string& today) {
    return !then.empty() && then != today;
  };
  if (differs(found.info.base_weights, now.base_weights)) {
    fail(
        "cannot resume from {}: its adapter was trained on other weights than those now in {}; set "
        "model.path "
        "to the original model, or set train.out to another folder",
        found.path.string(), config.model.path.string());
  }
  if (differs(found.info.training_data, now.training_data))
    LOG(WARNING) << "resuming with other training data than before: " << one_line(config.data.train.string())
                 << " has changed";
  warn_of_changes(config, found.info.config);
}

RunStart plan_start(const Config& config, std::int64_t step, std::int64_t steps, std::size_t sets) {
  const std::filesystem::path& out = config.train.out;
  RunStart start;
  start.evaluations = read_evaluations(out / "metrics.jsonl", step);
  if (step > steps) {
    fail_usage(
        "cannot resume {}: it has already done {} steps, but train.steps or train.epochs allows only {}; "
        "raise that setting, or set another train.out",
        out.string(), step, steps);
  }
  const bool due = sets > 0 && (step == steps || evaluation_due(config, step, steps));
  const auto figures = start.evaluations.find(step);
  start.evaluated = !due || (figures != start.evaluations.end() &&
                             figures->second.size() >= figures_of_evaluation(config, sets));
  const bool ended = step == steps && start.evaluated;
  if (ended && has_results(out, step)) {
    start.finished = true;
    return start;
  }
  const bool begins_again = ended_before_a_checkpoint(config);
  if (step == 0 && config.checkpoint.resume == "auto" && holds_a_run(out) && !begins_again) {
    fail(
        "cannot resume the run in {}: none of its checkpoints can be used (see above); repair one, or set "
        "train.out to another folder",
        out.string());
  }
  if (step > 0) {
    start.resumed_step = step;
  } else if (begins_again) {
    start.resumed_step = kBeforeAll;
    if (holds_a_run(out))
      LOG(WARNING)
          << "the run in " << one_line(out.string())
          << " has no checkpoint: it starts again with the first step, and its earlier steps are removed";
  }
  if (!start.evaluated) start.evaluations.erase(step);  // made again
  if (ended)
    start.evaluation = FirstEvaluation::recorded;
  else if (step == 0 || (step < steps && !start.evaluated))
    start.evaluation = FirstEvaluation::due;
  return start;
}

}  // namespace biqa
