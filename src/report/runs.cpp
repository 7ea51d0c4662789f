// SPDX-License-Identifier: Apache-2.0
#include "report/runs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <set>
#include <system_error>

#include "core/error.h"
#include "core/statistics.h"
#include "io/files.h"
#include "io/yaml.h"
#include "learner/checkpoint_store.h"
#include "report/html.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

std::string value_text(const YamlNode& node) {
  if (node.kind == YamlKind::null) return "null";
  if (node.kind == YamlKind::scalar) return node.text;
  std::vector<std::string> parts;
  parts.reserve(node.children.size());
  for (const YamlNode& child : node.children)
    parts.push_back(child.key.empty() ? value_text(child) : child.key + ": " + value_text(child));
  return fmt::format("[{}]", fmt::join(parts, ", "));
}

void flatten(const YamlNode& node, const std::string& prefix, Facts& facts) {
  for (const YamlNode& child : node.children) {
    if (child.kind == YamlKind::map)
      flatten(child, prefix + child.key + ".", facts);
    else
      facts.emplace_back(prefix + child.key, value_text(child));
  }
}

std::optional<std::int64_t> whole_number(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

void add_fact(Facts& facts, const std::string& name, const std::string& value) {
  if (!value.empty()) facts.emplace_back(name, value);
}

/// Facts of the newest checkpoint and of the final adapter.
void read_lineage(RunRecord& run) {
  add_fact(run.lineage, "base model", run.setting("model.path"));
  const std::string adapter = run.setting("model.adapter");
  add_fact(run.lineage, "start adapter", adapter.empty() && !run.settings.empty() ? "none" : adapter);
  add_fact(run.lineage, "seed", run.setting("train.seed"));
  const fs::path root = run.folder / "checkpoints";
  const std::vector<fs::path> checkpoints = CheckpointStore(root).newest_first();
  if (checkpoints.empty()) {
    run.notes.emplace_back("has no checkpoint, so the program's version and the digests are unknown");
  } else {
    try {
      const CheckpointManifest manifest = read_checkpoint_manifest(checkpoints.front());
      const CheckpointInfo& info = manifest.info;
      add_fact(run.lineage, "made by", info.build);
      add_fact(run.lineage, "fingerprint of the base weights", info.base_weights);
      add_fact(run.lineage, "fingerprint of the training data", info.training_data);
      add_fact(run.lineage, "newest checkpoint", checkpoints.front().filename().string());
      for (const CheckpointManifest::File& file : manifest.files) {
        if (file.name == "adapter.h5") add_fact(run.lineage, "its adapter.h5 (XXH3-128)", file.digest);
      }
    } catch (const Error& error) {
      run.notes.push_back(fmt::format("its newest checkpoint cannot be read: {}", error.what()));
    }
  }
  if (const std::optional<std::int64_t> best = best_checkpoint(root))
    add_fact(run.lineage, "best checkpoint", checkpoint_name(*best));
  if (!run.finished) return;
  try {
    add_fact(run.lineage, "final adapter.h5 (XXH3-128)", digest_of_file(run.folder / "adapter.h5"));
  } catch (const Error& error) {
    run.notes.push_back(fmt::format("its final adapter cannot be read: {}", error.what()));
  }
}

void describe_state(RunRecord& run) {
  const std::int64_t last = run.last_step();
  if (run.finished) return;
  const std::string planned =
      run.planned_steps ? fmt::format(" of {}", counted(*run.planned_steps, "step", "steps")) : "";
  run.notes.push_back(
      fmt::format("has no final adapter: it is still running or was stopped, and has recorded {}{}",
                  run.planned_steps ? std::to_string(last) : counted(last, "step", "steps"), planned));
}

/// The last `parts` parts of a path.
std::string path_end(const fs::path& path, std::size_t parts) {
  fs::path end, rest = path;
  for (std::size_t i = 0; i < parts && rest.has_relative_path(); ++i) {
    end = end.empty() ? rest.filename() : rest.filename() / end;
    rest = rest.parent_path();
  }
  return end.empty() ? path.string() : end.string();
}

void name_runs(std::vector<RunRecord>& runs) {
  for (RunRecord& run : runs) {
    const auto is_unique = [&](std::size_t parts) {
      return std::count_if(runs.begin(), runs.end(), [&](const RunRecord& other) {
               return path_end(other.folder, parts) == path_end(run.folder, parts);
             }) == 1;
    };
    std::size_t parts = 1;
    while (!is_unique(parts) && parts < 64) ++parts;
    run.name = path_end(run.folder, parts);
  }
}

/// The folder above the runs' folders seed-N, as launch/sweep.sh makes them; empty: the runs do not lie so.
fs::path folder_of_seeds(const Configuration& configuration) {
  const fs::path above = configuration.runs.front()->folder.parent_path();
  const bool are_seeds =
      std::all_of(configuration.runs.begin(), configuration.runs.end(), [&](const RunRecord* run) {
        return run->folder.filename().string().starts_with("seed-") && run->folder.parent_path() == above;
      });
  return are_seeds && above.has_filename() ? above : fs::path();
}

/// Names each configuration after the folder of its seeds, with as many parts as tell the configurations apart.
/// Otherwise after its first run.
void name_configurations(std::vector<Configuration>& configurations) {
  std::vector<fs::path> folders;
  for (const Configuration& configuration : configurations) folders.push_back(folder_of_seeds(configuration));
  for (std::size_t i = 0; i < configurations.size(); ++i) {
    std::string& name = configurations[i].name;
    name = configurations[i].runs.front()->name;
    if (!folders[i].empty() && std::count(folders.begin(), folders.end(), folders[i]) == 1) {
      const auto alike = [&](std::size_t parts) {
        return std::count_if(folders.begin(), folders.end(), [&](const fs::path& other) {
          return !other.empty() && path_end(other, parts) == path_end(folders[i], parts);
        });
      };
      std::size_t parts = 1;
      while (alike(parts) > 1 && parts < 64) ++parts;
      name = path_end(folders[i], parts);
    }
    if (configurations[i].runs.size() > 1) name += fmt::format(" ({} seeds)", configurations[i].runs.size());
  }
}

/// The settings by which runs are compared, as one text.
std::string identity_of(const RunRecord& run) {
  std::string identity;
  for (const auto& [key, value] : run.settings) {
    if (tells_configurations_apart(key)) identity.append(key).append(1, '\0').append(value).append(1, '\0');
  }
  return identity;
}

LinePoint point_over_runs(double x, const std::vector<double>& values) {
  const FigureOverRuns figure = over_runs(values);
  LinePoint point{x, figure.mean};
  if (figure.runs > 1) {
    point.low = figure.least;
    point.high = figure.most;
  }
  return point;
}

}  // namespace

std::int64_t RunRecord::last_step() const {
  std::int64_t last = 0;
  for (const StepMetrics& step : metrics.steps) last = std::max(last, step.step);
  return last;
}

std::string RunRecord::setting(std::string_view key) const {
  const auto found =
      std::find_if(settings.begin(), settings.end(), [&](const auto& fact) { return fact.first == key; });
  return found != settings.end() ? found->second : "";
}

RunRecord read_run(const fs::path& folder) {
  std::error_code problem;
  if (!fs::is_directory(folder, problem)) {
    fail("cannot read run {}: {}; give the folder that train.out names", folder.string(),
         fs::exists(folder, problem) ? "it is not a folder" : "there is no such folder");
  }
  RunRecord run;
  const fs::path absolute = fs::weakly_canonical(folder, problem);
  run.folder = problem ? folder : absolute;
  const fs::path config = run.folder / "config.yaml", metrics = run.folder / "metrics.jsonl";
  const bool has_config = fs::exists(config, problem), has_metrics = fs::exists(metrics, problem);
  if (!has_config && !has_metrics) {
    fail(
        "cannot read run {}: it holds neither config.yaml nor metrics.jsonl; give the folder that train.out "
        "names",
        folder.string());
  }
  if (has_config)
    flatten(read_yaml(config), "", run.settings);
  else
    run.notes.emplace_back("has no config.yaml, so its configuration is unknown");
  if (has_metrics) run.metrics = read_metrics(metrics);
  if (run.metrics.steps.empty() && run.metrics.evaluations.empty())
    run.notes.emplace_back("has recorded no step and no evaluation yet");
  run.finished = fs::exists(run.folder / "adapter.h5", problem);
  run.planned_steps = whole_number(run.setting("train.steps"));
  if (run.planned_steps && *run.planned_steps == 0) run.planned_steps.reset();
  describe_state(run);
  read_lineage(run);
  return run;
}

std::vector<RunRecord> read_runs(std::span<const fs::path> folders) {
  std::vector<RunRecord> runs;
  for (const fs::path& folder : folders) {
    RunRecord run = read_run(folder);
    for (const RunRecord& other : runs) {
      if (other.folder == run.folder)
        fail_usage("run {} is given twice: name each run folder once", folder.string());
    }
    runs.push_back(std::move(run));
  }
  name_runs(runs);
  return runs;
}

bool tells_configurations_apart(std::string_view key) {
  // The runs of one configuration have different seeds. The other settings here change no result: the number of
  // threads, and what is written and shown.
  constexpr std::array<std::string_view, 6> kOthers{"train.seed",     "train.out",
                                                    "train.progress", "train.dump_steps",
                                                    "model.threads",  "train.samples_per_step"};
  if (key.starts_with("checkpoint.")) return false;
  return std::find(kOthers.begin(), kOthers.end(), key) == kOthers.end();
}

std::vector<Configuration> configurations_of(std::span<const RunRecord> runs) {
  std::vector<Configuration> configurations;
  std::map<std::string, std::size_t> known;
  for (const RunRecord& run : runs) {
    const auto [place, is_new] = known.try_emplace(
        run.settings.empty() ? run.folder.string() + '\n' : identity_of(run), configurations.size());
    if (is_new) configurations.emplace_back();
    configurations[place->second].runs.push_back(&run);
  }
  name_configurations(configurations);
  return configurations;
}

std::vector<SettingDifference> differences_of(std::span<const Configuration> configurations) {
  std::vector<std::string> keys;
  std::set<std::string> seen;
  for (const Configuration& configuration : configurations) {
    for (const auto& [key, value] : configuration.runs.front()->settings) {
      if (tells_configurations_apart(key) && seen.insert(key).second) keys.push_back(key);
    }
  }
  std::vector<SettingDifference> differences;
  for (const std::string& key : keys) {
    SettingDifference difference{key, {}};
    for (const Configuration& configuration : configurations) {
      const Facts& facts = configuration.runs.front()->settings;
      const auto found =
          std::find_if(facts.begin(), facts.end(), [&](const auto& fact) { return fact.first == key; });
      difference.values.push_back(found != facts.end() ? found->second : kNoValue);
    }
    if (std::any_of(difference.values.begin(), difference.values.end(),
                    [&](const std::string& value) { return value != difference.values.front(); }))
      differences.push_back(std::move(difference));
  }
  return differences;
}

FigureOverRuns over_runs(std::span<const double> values) {
  std::vector<double> finite;
  std::copy_if(values.begin(), values.end(), std::back_inserter(finite),
               [](double value) { return std::isfinite(value); });
  if (finite.empty()) return {};
  const auto [least, most] = std::minmax_element(finite.begin(), finite.end());
  return {mean(finite), *least, *most, static_cast<std::int64_t>(finite.size())};
}

StepCurve step_curve(const Configuration& configuration, std::string_view column, std::int64_t most_points) {
  std::int64_t last = 0;
  for (const RunRecord* run : configuration.runs) last = std::max(last, run->last_step());
  StepCurve curve;
  curve.steps_per_point = std::max<std::int64_t>(1, (last + most_points - 1) / most_points);
  // Number of the point → run → its values.
  std::map<std::int64_t, std::map<const RunRecord*, std::vector<double>>> values;
  for (const RunRecord* run : configuration.runs) {
    for (const StepMetrics& step : run->metrics.steps) {
      auto& of_run = values[(step.step - 1) / curve.steps_per_point][run];
      if (const double value = column_of(step, column); std::isfinite(value)) of_run.push_back(value);
    }
  }
  for (const auto& [number, by_run] : values) {
    std::vector<double> means;
    means.reserve(by_run.size());
    for (const auto& [run, of_run] : by_run) means.push_back(of_run.empty() ? kNotMeasured : mean(of_run));
    const auto first = static_cast<double>(number * curve.steps_per_point + 1);
    curve.points.push_back(
        point_over_runs(first + static_cast<double>(curve.steps_per_point - 1) / 2, means));
  }
  return curve;
}

std::vector<EvaluationKey> evaluation_keys(std::span<const RunRecord> runs) {
  std::vector<EvaluationKey> keys;
  for (const RunRecord& run : runs) {
    for (const EvalMetrics& eval : run.metrics.evaluations) {
      const EvaluationKey key{eval.set, eval.condition, eval.decoding};
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  return keys;
}

std::vector<LinePoint> evaluation_curve(const Configuration& configuration, const EvaluationKey& key,
                                        std::string_view column) {
  std::map<std::int64_t, std::vector<double>> values;
  for (const RunRecord* run : configuration.runs) {
    for (const EvalMetrics& eval : run->metrics.evaluations) {
      if (EvaluationKey{eval.set, eval.condition, eval.decoding} == key)
        values[eval.step].push_back(column_of(eval, column));
    }
  }
  std::vector<LinePoint> points;
  points.reserve(values.size());
  for (const auto& [step, of_runs] : values)
    points.push_back(point_over_runs(static_cast<double>(step), of_runs));
  return points;
}

FigureOverRuns evaluation_figure(const Configuration& configuration, const EvaluationKey& key,
                                 std::string_view column, bool before) {
  std::vector<double> values;
  for (const RunRecord* run : configuration.runs) {
    const EvalMetrics *first = nullptr, *last = nullptr;
    for (const EvalMetrics& eval : run->metrics.evaluations) {
      if (EvaluationKey{eval.set, eval.condition, eval.decoding} != key) continue;
      if (first == nullptr || eval.step < first->step) first = &eval;
      if (last == nullptr || eval.step >= last->step) last = &eval;
    }
    if (first == nullptr) continue;
    // Only step 0 is before training.
    if (before && first->step == 0) values.push_back(column_of(*first, column));
    if (!before && last->step > 0) values.push_back(column_of(*last, column));
  }
  return over_runs(values);
}

}  // namespace biqa
