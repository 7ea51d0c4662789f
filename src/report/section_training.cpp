// SPDX-License-Identifier: Apache-2.0
// Curves of the training steps, and where their time goes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "report/html.h"
#include "report/sections.h"
#include "reward/table.h"

namespace biqa {
namespace {

/// A chart of one column of metrics.jsonl, and of the spread that belongs to it.
struct TrainingColumn {
  std::string name, title, unit;
  double smallest_step = 0.01;
  std::string spread = "";  ///< column of the standard deviation; empty: none
};

std::vector<TrainingColumn> reward_columns() {
  std::vector<TrainingColumn> columns{{"reward_mean", "Total reward", "weighted sum", 0.01, "reward_std"}};
  for (const Reward& reward : rewards())
    columns.push_back({fmt::format("reward_{}_mean", reward.name), std::string(reward.title),
                       std::string(reward.range), 0.01, fmt::format("reward_{}_std", reward.name)});
  for (const Reward& reward : rewards())
    columns.push_back(
        {fmt::format("reward_{}_weight", reward.name), fmt::format("{}: weight", reward.title), "", 1e-6});
  return columns;
}

const std::vector<TrainingColumn>& learning_columns() {
  static const std::vector<TrainingColumn> columns{
      {"loss", "Loss", "", 1e-6},
      {"kl", "KL to the reference", "nats per token", 1e-6},
      {"entropy", "Entropy", "nats per token", 1e-3},
      {"grad_norm", "Gradient norm", "before clipping", 1e-6},
      {"clip_fraction", "Clipped tokens", "share", 1e-3},
      {"ratio_max_deviation", "Largest |ratio − 1|", "", 1e-6},
      {"actor_learner_logp_gap", "Gap of actor and learner", "nats", 1e-9},
      {"lr", "Learning rate", "", 1e-12}};
  return columns;
}

const std::vector<TrainingColumn>& answer_columns() {
  static const std::vector<TrainingColumn> columns{
      {"parse_rate", "Answers with a rating", "share"},
      {"stage2_parse_rate", "Captions with a rating", "share, second stage"},
      {"leak_rate", "Captions that state the rating", "share"},
      {"images", "Images of a step", "with those of refills", 1},
      {"zero_variance_fraction", "Groups with equal rewards", "share"},
      {"truncated_fraction", "Answers cut off", "share"},
      {"length_mean", "Length of an answer", "tokens", 1},
      {"caption_words", "Length of a caption", "words", 1},
      {"reasoning_words", "Length of a reasoning", "words", 1}};
  return columns;
}

/// What has no chart.
struct LeftOut {
  std::vector<std::string> missing, constant;

  std::string html() const {
    std::vector<std::string> notes;
    if (!constant.empty())
      notes.push_back(fmt::format("The same in every step: {}.", fmt::join(constant, "; ")));
    if (!missing.empty()) notes.push_back(fmt::format("Not measured: {}.", fmt::join(missing, ", ")));
    return note_list(notes);
  }
};

LineChart chart_of(const TrainingColumn& column, Configurations configurations) {
  LineChart chart;
  chart.title = column.title;
  chart.unit = column.unit;
  chart.smallest_step = column.smallest_step;
  for (std::size_t i = 0; i < configurations.size(); ++i) {
    chart.lines.push_back(
        {configurations[i].name, i, Stroke::solid, false, step_curve(configurations[i], column.name).points});
    if (column.spread.empty()) continue;
    std::vector<LinePoint> spread = step_curve(configurations[i], column.spread).points;
    for (LinePoint& p : spread) p.low = p.high = kNotMeasured;  // a band around each would hide the lines
    chart.lines.push_back(
        {configurations[i].name + ", standard deviation", i, Stroke::dotted, false, std::move(spread)});
  }
  return chart;
}

/// A column that never changes is a sentence instead of a chart.
std::string charts_of(const std::vector<TrainingColumn>& columns, Configurations configurations) {
  std::string html;
  LeftOut left_out;
  for (const TrainingColumn& column : columns) {
    const LineChart chart = chart_of(column, configurations);
    const std::string drawn = line_chart(chart);
    if (drawn.empty()) {
      left_out.missing.push_back(column.title);
    } else if (const double value = constant_value(chart); std::isfinite(value)) {
      left_out.constant.push_back(fmt::format("{} {}", column.title, figure_text(value)));
    } else {
      html += drawn;
    }
  }
  return (html.empty() ? "" : "<div class=\"charts\">\n" + html + "</div>\n") + left_out.html();
}

bool has_steps(const RunReportInputs& inputs) {
  return std::any_of(inputs.runs.begin(), inputs.runs.end(),
                     [](const RunRecord& run) { return !run.metrics.steps.empty(); });
}

/// Mean of a column over all steps of all runs of a configuration.
double mean_of(const Configuration& configuration, std::string_view column) {
  double sum = 0;
  std::int64_t count = 0;
  for (const RunRecord* run : configuration.runs) {
    for (const StepMetrics& step : run->metrics.steps) {
      const double value = column_of(step, column);
      if (!std::isfinite(value)) continue;
      sum += value;
      ++count;
    }
  }
  return count > 0 ? sum / static_cast<double>(count) : kNotMeasured;
}

/// Mean seconds of a step, by part. The second stage is a part of the rollout.
struct StepTime {
  double step, first_stage, second_stage, rewards, learning, exchange, rest;
};
StepTime step_time(const Configuration& configuration) {
  const auto mean = [&](std::string_view column) { return mean_of(configuration, column); };
  StepTime time{mean("step_seconds"),
                mean("rollout_seconds"),
                mean("stage2_seconds"),
                mean("reward_seconds"),
                mean("learn_seconds"),
                mean("sync_seconds"),
                0};
  time.first_stage -= std::isfinite(time.second_stage) ? time.second_stage : 0;
  time.rest = time.step;
  for (const double part : {time.first_stage, time.second_stage, time.rewards, time.learning, time.exchange})
    time.rest -= std::isfinite(part) ? part : 0;
  return time;
}

std::string time_chart(Configurations configurations) {
  std::vector<Bar> bars;
  for (const Configuration& configuration : configurations) {
    const StepTime time = step_time(configuration);
    bars.push_back({configuration.name,
                    {{"rollout, first stage", 0, time.first_stage},
                     {"rollout, second stage", 1, time.second_stage},
                     {"rewards", 2, time.rewards},
                     {"learning", 3, time.learning},
                     {"exchange of the adapter", 4, time.exchange},
                     {"rest", 5, time.rest}}});
  }
  using Sign = LegendEntry::Sign;
  return legend({{"rollout, first stage", 0, Sign::bar},
                 {"rollout, second stage", 1, Sign::bar},
                 {"rewards", 2, Sign::bar},
                 {"learning", 3, Sign::bar},
                 {"exchange of the adapter", 4, Sign::bar},
                 {"rest", 5, Sign::bar}}) +
         bar_chart("Time of a step", "seconds", bars);
}

std::string bytes_text(double bytes) {
  if (!std::isfinite(bytes)) return kNoValue;
  for (const auto& [unit, name] : {std::pair(1e9, "GB"), {1e6, "MB"}, {1e3, "kB"}}) {
    if (bytes >= unit) return fmt::format("{:.2f} {}", bytes / unit, name);
  }
  return fmt::format("{:.0f} B", bytes);
}

std::string traffic_table(Configurations configurations) {
  HtmlTable table("Means per step", {{"configuration", false},
                                     {"steps"},
                                     {"seconds"},
                                     {"trajectories"},
                                     {"generated tokens"},
                                     {"second-stage tokens"},
                                     {"tokens per second of rollout"},
                                     {"traffic of all ranks"},
                                     {"share of the GPU's peak"},
                                     {"most memory on a GPU"}});
  for (const Configuration& configuration : configurations) {
    std::size_t steps = 0;
    for (const RunRecord* run : configuration.runs) steps += run->metrics.steps.size();
    const auto mean = [&](std::string_view column) { return mean_of(configuration, column); };
    const double tokens = mean("generated_tokens") + mean("stage2_tokens");
    const double rollout = mean("rollout_seconds");
    table.add({configuration.name, std::to_string(steps), fixed_text(mean("step_seconds"), 2),
               fixed_text(mean("trajectories"), 0), fixed_text(mean("generated_tokens"), 0),
               fixed_text(mean("stage2_tokens"), 0), rollout > 0 ? fixed_text(tokens / rollout, 0) : kNoValue,
               bytes_text(mean("traffic_bytes")), fixed_text(mean("mfu")),
               bytes_text(mean("device_peak_bytes"))});
  }
  return table.html();
}

}  // namespace

std::string configuration_legend(Configurations configurations) {
  using Sign = LegendEntry::Sign;
  std::vector<LegendEntry> entries;
  bool band = false;
  for (std::size_t i = 0; i < configurations.size(); ++i) {
    entries.push_back({configurations[i].name, i, Sign::line});
    band = band || configurations[i].runs.size() > 1;
  }
  if (band)
    entries.push_back({"from the least to the greatest of the seeds; the line is their mean", 5, Sign::band});
  return legend(entries);
}

std::string training_section(const RunReportInputs& inputs, Configurations configurations) {
  if (!has_steps(inputs)) return paragraph("No step has been recorded yet.");
  std::int64_t together = 1;
  for (const Configuration& configuration : configurations)
    together = std::max(together, step_curve(configuration, "step").steps_per_point);
  std::string html = configuration_legend(configurations);
  if (together > 1)
    html += paragraph(
        fmt::format("Runs are long, so each point is the mean of up to {} consecutive steps.", together),
        "caption");
  html += "<h3>Rewards</h3>\n" +
          paragraph("Solid: mean over the answers of a step. Dotted: their standard deviation.", "caption") +
          charts_of(reward_columns(), configurations);
  html += "<h3>Learning</h3>\n" + charts_of(learning_columns(), configurations);
  html += "<h3>Answers</h3>\n" + charts_of(answer_columns(), configurations);
  return html;
}

std::string time_section(const RunReportInputs& inputs, Configurations configurations) {
  if (!has_steps(inputs)) return paragraph("No step has been recorded yet.");
  return paragraph(
             "Mean over all steps. Each part is the longest time of any rank, so the parts of ranks that "
             "work at "
             "the same time can add up to more than the step. Evaluations do not count.",
             "caption") +
         time_chart(configurations) + traffic_table(configurations) +
         charts_of({{"step_seconds", "Time of a step", "seconds", 0.01},
                    {"rollout_seconds", "Time of the rollout", "seconds", 0.01},
                    {"learn_seconds", "Time of the learning", "seconds", 0.01}},
                   configurations);
}

}  // namespace biqa
