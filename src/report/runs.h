// SPDX-License-Identifier: Apache-2.0
// What run folders hold, and which runs belong together.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "report/chart.h"
#include "run/records.h"

namespace biqa {

/// Names and values, in order.
using Facts = std::vector<std::pair<std::string, std::string>>;

struct RunRecord {
  std::filesystem::path folder;
  std::string name;  ///< end of the path, as long as needed to tell the runs apart
  Facts settings;    ///< of config.yaml, as section.key; empty if there is none
  MetricsFile metrics;
  bool finished = false;                      ///< the final adapter exists
  std::optional<std::int64_t> planned_steps;  ///< train.steps; nothing if it follows from the epochs
  Facts lineage;                              ///< origins of the run: base model, start adapter, program, …
  std::vector<std::string> notes;             ///< what is missing or cannot be read

  /// The last step with metrics, 0 without any.
  std::int64_t last_step() const;
  /// The value of a setting; empty if it is unknown.
  std::string setting(std::string_view key) const;
};

/// Reads a run folder, also one that is still being written: an incomplete last line is left out. Missing parts are notes.
/// Throws Error if the folder is no run folder, or if a whole line cannot be read.
RunRecord read_run(const std::filesystem::path& folder);

/// Reads the folders and names the runs. Throws Error (usage) if a folder is given twice.
std::vector<RunRecord> read_runs(std::span<const std::filesystem::path> folders);

/// Runs that differ only in their seed, and in settings that change no result.
struct Configuration {
  std::string
      name;  ///< of the folder with its runs seed-N, otherwise of its first run; then the number of runs, if several
  std::vector<const RunRecord*> runs;
};
/// In the order of their first runs. A run without config.yaml is a configuration of its own.
std::vector<Configuration> configurations_of(std::span<const RunRecord> runs);

/// Whether a setting decides what is learned or measured. The seed and the folder of a run do not count.
bool tells_configurations_apart(std::string_view key);

/// A setting that differs between configurations: its value in each; kNoValue: unknown.
struct SettingDifference {
  std::string key;
  std::vector<std::string> values;
};
std::vector<SettingDifference> differences_of(std::span<const Configuration> configurations);

/// The figure of each step. The value is the mean over the runs of a configuration. With two runs or more, the band
/// goes from the least to the greatest value. Steps without a value are NaN. If there are more than `most_points`
/// steps, each point is the mean of several consecutive steps: `steps_per_point`.
struct StepCurve {
  std::vector<LinePoint> points;
  std::int64_t steps_per_point = 1;
};
inline constexpr std::int64_t kMostCurvePoints = 250;
StepCurve step_curve(const Configuration& configuration, std::string_view column,
                     std::int64_t most_points = kMostCurvePoints);

/// The properties that distinguish evaluations.
struct EvaluationKey {
  std::string set, condition, decoding;
  bool operator==(const EvaluationKey&) const = default;
};
/// Of all runs, in the order of their first line.
std::vector<EvaluationKey> evaluation_keys(std::span<const RunRecord> runs);
/// As step_curve, over evaluated steps.
std::vector<LinePoint> evaluation_curve(const Configuration& configuration, const EvaluationKey& key,
                                        std::string_view column);

/// A figure over the runs of a configuration; NaN: no run has it.
struct FigureOverRuns {
  double mean = kNotMeasured, least = kNotMeasured, most = kNotMeasured;
  std::int64_t runs = 0;  ///< that have it
};
FigureOverRuns over_runs(std::span<const double> values);
/// The figure of each run's evaluation before training (step 0), or of its last evaluation after step 0.
FigureOverRuns evaluation_figure(const Configuration& configuration, const EvaluationKey& key,
                                 std::string_view column, bool before);

}  // namespace biqa
