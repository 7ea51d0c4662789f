// SPDX-License-Identifier: Apache-2.0
// Figures of evaluations: before and after training, over the steps, and one against the other.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "core/statistics.h"
#include "evaluation/text_figures.h"
#include "report/html.h"
#include "report/pareto.h"
#include "report/sections.h"
#include "report/style.h"

namespace biqa {
namespace {

/// metrics.jsonl has no chance level.
constexpr std::string_view kRougeAlone = "ROUGE-1 recall (without chance level)";
constexpr std::string_view kRougeExcess = "ROUGE-1 recall above chance level";

struct EvaluationColumn {
  std::string_view name, title, condition;  ///< condition: empty for both
  int decimals = 3;
};
constexpr std::array<EvaluationColumn, 5> kColumns{{{"plcc", "PLCC", ""},
                                                    {"srcc", "SRCC", ""},
                                                    {"rmse", "RMSE", ""},
                                                    {"rouge1_r", kRougeAlone, "image"},
                                                    {"parse_failures", "Unrated answers", "", 0}}};

std::string from_condition(const std::string& condition) {
  return condition == "caption" ? "from the caption alone" : "from the picture";
}

std::string over_runs_text(const FigureOverRuns& figure, int decimals) {
  if (figure.runs < 2 || figure.least == figure.most) return fixed_text(figure.mean, decimals);
  return fmt::format("{} [{}, {}]", fixed_text(figure.mean, std::max(decimals, 1)),
                     fixed_text(figure.least, decimals), fixed_text(figure.most, decimals));
}

struct FigureQuery {
  std::string condition, decoding;
  std::string_view column;
  bool before = false;
};

/// The figure of a configuration for one of the sets; NaN: it has none.
using FigureOfSet = std::function<double(const Configuration&, const EvaluationKey&)>;

/// A figure of each configuration: the mean over sets of the means over runs. A set counts if every configuration that has
/// the figure for any set has it for this one, so that all are means of the same sets. NaN: there is none.
std::vector<double> means_over_sets(Configurations configurations, const std::vector<EvaluationKey>& keys,
                                    const FigureOfSet& figure) {
  std::vector<std::vector<double>> by_set;
  std::vector<bool> takes_part(configurations.size());
  for (const EvaluationKey& key : keys) {
    by_set.emplace_back();
    for (std::size_t i = 0; i < configurations.size(); ++i) {
      by_set.back().push_back(figure(configurations[i], key));
      if (std::isfinite(by_set.back().back())) takes_part[i] = true;
    }
  }
  std::erase_if(by_set, [&](const std::vector<double>& figures) {
    for (std::size_t i = 0; i < figures.size(); ++i) {
      if (takes_part[i] && !std::isfinite(figures[i])) return true;
    }
    return false;
  });
  std::vector<double> means(configurations.size(), kNotMeasured);
  for (std::size_t i = 0; i < means.size(); ++i) {
    if (!takes_part[i] || by_set.empty()) continue;
    std::vector<double> values;
    values.reserve(by_set.size());
    for (const std::vector<double>& figures : by_set) values.push_back(figures[i]);
    means[i] = mean(values);
  }
  return means;
}

std::vector<double> means_over_sets(const RunReportInputs& inputs, Configurations configurations,
                                    const FigureQuery& query) {
  std::vector<EvaluationKey> keys = evaluation_keys(inputs.runs);
  std::erase_if(keys, [&](const EvaluationKey& key) {
    return key.condition != query.condition || key.decoding != query.decoding;
  });
  return means_over_sets(configurations, keys,
                         [&](const Configuration& configuration, const EvaluationKey& key) {
                           return evaluation_figure(configuration, key, query.column, query.before).mean;
                         });
}

/// The answers to a set by the runs of a configuration, from the predictions in their folders: ROUGE-1 recall.
ChanceFigure recall_of_predictions(const RunReportInputs& inputs, const Configuration& configuration,
                                   const EvaluationKey& key) {
  std::vector<double> values, chances;
  for (const RunRecord* run : configuration.runs) {
    for (const PredictionFile& file : inputs.predictions) {
      if (file.run != run->name) continue;
      for (const ReportRow& row : file.report.rows) {
        if (EvaluationKey{row.set, row.condition, row.decoding} != key || !row.texts) continue;
        if (!std::isfinite(row.texts->rouge1_r.excess())) continue;
        values.push_back(row.texts->rouge1_r.value);
        chances.push_back(row.texts->rouge1_r.chance);
      }
    }
  }
  return {mean(values), mean(chances)};
}

/// ROUGE-1 recall of each configuration beside its chance level, after training. Empty unless all have one.
std::vector<ChanceFigure> recalls_with_chance(const RunReportInputs& inputs, Configurations configurations,
                                              const std::string& decoding) {
  std::vector<EvaluationKey> keys;
  for (const PredictionFile& file : inputs.predictions) {
    for (const ReportRow& row : file.report.rows) {
      const EvaluationKey key{row.set, row.condition, row.decoding};
      if (file.run.empty() || !row.texts || row.decoding != decoding) continue;
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  const auto means = [&](double ChanceFigure::*part) {
    return means_over_sets(configurations, keys, [&](const Configuration& c, const EvaluationKey& key) {
      return recall_of_predictions(inputs, c, key).*part;
    });
  };
  const std::vector<double> values = means(&ChanceFigure::value), chances = means(&ChanceFigure::chance);
  std::vector<ChanceFigure> recalls;
  for (std::size_t i = 0; i < values.size(); ++i) {
    recalls.push_back({values[i], chances[i]});
    if (!std::isfinite(recalls.back().excess())) return {};
  }
  return recalls;
}

/// Sets whose figures are of different numbers of images.
std::vector<std::string> notes_on_images(const RunReportInputs& inputs, Configurations configurations,
                                         const std::string& decoding) {
  std::vector<std::string> notes;
  for (const EvaluationKey& key : evaluation_keys(inputs.runs)) {
    if (key.decoding != decoding) continue;
    std::vector<std::string> parts;
    std::set<double> counts;
    for (const Configuration& configuration : configurations) {
      FigureOverRuns images = evaluation_figure(configuration, key, "n", false);
      if (images.runs == 0) images = evaluation_figure(configuration, key, "n", true);
      if (images.runs == 0) continue;
      counts.insert({images.least, images.most});
      parts.push_back(fmt::format("{} {}", configuration.name, fixed_text(images.least, 0)));
      if (images.most > images.least) parts.back() += " to " + fixed_text(images.most, 0);
    }
    const std::string note = fmt::format(
        "The figures of set {} come from different numbers of images, so they cannot be compared: {}.",
        key.set, fmt::join(parts, ", "));
    if (counts.size() > 1 && std::find(notes.begin(), notes.end(), note) == notes.end())
      notes.push_back(note);
  }
  return notes;
}

/// Greedy if any evaluation is, like the figure that chooses the best checkpoint.
std::string headline_decoding(const RunReportInputs& inputs) {
  const std::vector<EvaluationKey> keys = evaluation_keys(inputs.runs);
  const bool greedy = std::any_of(keys.begin(), keys.end(),
                                  [](const EvaluationKey& key) { return key.decoding == "greedy"; });
  return greedy || keys.empty() ? "greedy" : keys.front().decoding;
}

std::set<std::string> sets_of(const RunReportInputs& inputs) {
  std::set<std::string> sets;
  for (const EvaluationKey& key : evaluation_keys(inputs.runs)) sets.insert(key.set);
  return sets;
}

/// Pairs of set and decoding, in the order of their first evaluation.
std::vector<std::pair<std::string, std::string>> charted_sets(const RunReportInputs& inputs) {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const EvaluationKey& key : evaluation_keys(inputs.runs)) {
    const std::pair<std::string, std::string> pair{key.set, key.decoding};
    if (std::find(pairs.begin(), pairs.end(), pair) == pairs.end()) pairs.push_back(pair);
  }
  return pairs;
}

struct Tile {
  std::string_view title, column, condition;
  int decimals = 3;
};
constexpr std::array<Tile, 5> kTiles{{{"PLCC from the picture", "plcc", "image"},
                                      {"PLCC from the caption alone", "plcc", "caption"},
                                      {"RMSE from the picture", "rmse", "image"},
                                      {kRougeAlone, "rouge1_r", "image"},
                                      {"Answers without rating", "parse_failures", "image", 0}}};

std::string tile_html(std::string_view title, const std::string& lines) {
  return lines.empty() ? "" : fmt::format("<div class=\"tile\"><h3>{}</h3>{}</div>\n", title, lines);
}

std::string recall_tile(Configurations configurations, const std::vector<ChanceFigure>& recalls) {
  std::string lines;
  for (std::size_t i = 0; i < configurations.size(); ++i)
    lines += fmt::format("<p>{}<b><i>{} − {} =</i> {}</b></p>", escaped_html(configurations[i].name),
                         fixed_text(recalls[i].value), fixed_text(recalls[i].chance),
                         fixed_text(recalls[i].excess()));
  return tile_html(kRougeExcess, lines);
}

std::string tiles(const RunReportInputs& inputs, Configurations configurations, const std::string& decoding) {
  std::string html = "<div class=\"tiles\">\n";
  const std::vector<ChanceFigure> recalls = recalls_with_chance(inputs, configurations, decoding);
  for (const Tile& tile : kTiles) {
    if (tile.title == kRougeAlone && !recalls.empty()) {
      html += recall_tile(configurations, recalls);
      continue;
    }
    std::string lines;
    FigureQuery query{std::string(tile.condition), decoding, tile.column, true};
    const std::vector<double> before = means_over_sets(inputs, configurations, query);
    query.before = false;
    const std::vector<double> after = means_over_sets(inputs, configurations, query);
    for (std::size_t i = 0; i < configurations.size(); ++i) {
      if (!std::isfinite(before[i]) && !std::isfinite(after[i])) continue;
      lines += fmt::format("<p>{}<b><i>{} →</i> {}</b></p>", escaped_html(configurations[i].name),
                           fixed_text(before[i], tile.decimals), fixed_text(after[i], tile.decimals));
    }
    html += tile_html(tile.title, lines);
  }
  return html + "</div>\n";
}

std::string before_and_after(const RunReportInputs& inputs, Configurations configurations) {
  std::vector<HtmlTable::Column> columns{
      {"set", false}, {"condition", false}, {"decoding", false}, {"configuration", false}, {"images"}};
  for (const EvaluationColumn& column : kColumns) {
    columns.push_back({std::string(column.title) + " before"});
    columns.push_back({"after"});
  }
  HtmlTable table("Figures of the evaluations before training and after it", columns);
  for (const EvaluationKey& key : evaluation_keys(inputs.runs)) {
    for (const Configuration& configuration : configurations) {
      FigureOverRuns images = evaluation_figure(configuration, key, "n", false);
      if (images.runs == 0) images = evaluation_figure(configuration, key, "n", true);
      if (images.runs == 0) continue;
      std::vector<std::string> cells{key.set, key.condition, key.decoding, configuration.name,
                                     figure_text(images.mean)};
      for (const EvaluationColumn& column : kColumns) {
        for (const bool before : {true, false})
          cells.push_back(
              over_runs_text(evaluation_figure(configuration, key, column.name, before), column.decimals));
      }
      table.add(cells);
    }
  }
  return table.html();
}

/// The charts of one set and decoding.
std::string evaluation_charts(Configurations configurations, const std::string& set,
                              const std::string& decoding) {
  std::string html;
  for (const EvaluationColumn& column : kColumns) {
    for (const std::string condition : {"image", "caption"}) {
      if (!column.condition.empty() && column.condition != condition) continue;
      LineChart chart;
      chart.title = std::string(column.title);
      chart.unit = from_condition(condition);
      chart.smallest_step = column.decimals == 0 ? 1 : 0.01;
      chart.label_decimals = column.decimals == 0 ? 1 : 2;
      for (std::size_t i = 0; i < configurations.size(); ++i) {
        chart.lines.push_back({configurations[i].name, i, Stroke::solid, true,
                               evaluation_curve(configurations[i], {set, condition, decoding}, column.name)});
      }
      html += line_chart(chart);
    }
  }
  return html;
}

struct Axes {
  std::string_view first, first_condition, first_title;
  std::string_view second, second_condition, second_title;
};
constexpr std::array<Axes, 3> kTradeOffs{{
    {"rouge1_r", "image", kRougeAlone, "plcc", "image", "PLCC from the picture"},
    {"rouge1_r", "image", kRougeAlone, "plcc", "caption", "PLCC from the caption alone"},
    {"plcc", "caption", "PLCC from the caption alone", "plcc", "image", "PLCC from the picture"},
}};

std::string trade_off_chart(const RunReportInputs& inputs, Configurations configurations, Axes axes,
                            const std::string& decoding) {
  const auto values = [&](std::string_view column, std::string_view condition) {
    return means_over_sets(inputs, configurations, {std::string(condition), decoding, column, false});
  };
  std::vector<double> first = values(axes.first, axes.first_condition);
  const std::vector<double> second = values(axes.second, axes.second_condition);
  const std::vector<ChanceFigure> recalls = recalls_with_chance(inputs, configurations, decoding);
  if (axes.first_title == kRougeAlone && !recalls.empty()) {
    axes.first_title = kRougeExcess;
    std::transform(recalls.begin(), recalls.end(), first.begin(),
                   [](const ChanceFigure& recall) { return recall.excess(); });
  }
  std::vector<TwoFigures> figures;
  figures.reserve(configurations.size());
  for (std::size_t i = 0; i < configurations.size(); ++i) figures.push_back({first[i], second[i]});
  const auto measured = [](const TwoFigures& f) { return std::isfinite(f.first) && std::isfinite(f.second); };
  if (std::count_if(figures.begin(), figures.end(), measured) < 2) return "";
  const std::vector<bool> best = non_dominated(figures);
  PointChart chart;
  chart.title = fmt::format("{} against {}", axes.second_title, axes.first_title);
  chart.x_title = std::string(axes.first_title);
  chart.y_title = std::string(axes.second_title);
  std::vector<LinePoint> front;
  for (std::size_t i = 0; i < configurations.size(); ++i) {
    const std::string& name = configurations[i].name;
    chart.groups.push_back({name,
                            i,
                            {{figures[i].first, figures[i].second, name,
                              name + (best[i] ? " (on the front)" : " (dominated)"), !best[i]}}});
    if (best[i]) front.push_back({figures[i].first, figures[i].second});
  }
  std::sort(front.begin(), front.end(), [](const LinePoint& a, const LinePoint& b) { return a.x < b.x; });
  chart.curve = front;
  chart.curve_colour = kChartColours - 1;
  return point_chart(chart);
}

}  // namespace

std::string headline_section(const RunReportInputs& inputs, Configurations configurations) {
  if (evaluation_keys(inputs.runs).empty())
    return paragraph("No evaluation has been recorded. The setting data.eval names the sets to evaluate.");
  const std::string decoding = headline_decoding(inputs);
  const std::size_t sets = sets_of(inputs).size();
  std::string rule = fmt::format(
      "Before training (step 0) → after it (last evaluation), with {} decoding{}.", decoding,
      sets > 1 ? std::string(", as the mean over the sets for which every configuration has a figure") : "");
  const bool seeds = std::any_of(configurations.begin(), configurations.end(),
                                 [](const Configuration& c) { return c.runs.size() > 1; });
  if (seeds)
    rule +=
        " For several seeds the figures are means over the runs; the table has the least and the greatest "
        "value in brackets.";
  return paragraph(rule, "caption") + note_list(notes_on_images(inputs, configurations, decoding)) +
         tiles(inputs, configurations, decoding) + before_and_after(inputs, configurations) +
         paragraph(
             "PLCC and SRCC: correlation of ratings and human scores, of the values and of the ranks. RMSE: "
             "in units of the rating, lower is better. ROUGE-1 recall: share of the human text's words that "
             "the answer has. Texts about quality share words whatever they describe: the chance level is "
             "the same figure with the human texts of other images. It is computed from the predictions in "
             "the run folders, after training.",
             "caption");
}

std::string evaluation_section(const RunReportInputs& inputs, Configurations configurations) {
  const std::set<std::string> sets = sets_of(inputs);
  if (sets.empty()) return paragraph("No evaluation has been recorded.");
  std::string html = configuration_legend(configurations) +
                     paragraph("The number at the end of a line is its last value.", "caption");
  for (const auto& [set, decoding] : charted_sets(inputs)) {
    html += fmt::format("<h3>{}ecoding: {}</h3>\n<div class=\"charts\">\n{}</div>\n",
                        sets.size() > 1 ? fmt::format("Set {}, d", escaped_html(set)) : "D",
                        escaped_html(decoding), evaluation_charts(configurations, set, decoding));
  }
  return html;
}

std::string trade_off_section(const RunReportInputs& inputs, Configurations configurations) {
  const std::string decoding = headline_decoding(inputs);
  std::string charts;
  // Ratings against ratings only where no human texts give a ROUGE.
  for (std::size_t i = 0; i < kTradeOffs.size() && (i < 2 || charts.empty()); ++i)
    charts += trade_off_chart(inputs, configurations, kTradeOffs[i], decoding);
  if (charts.empty()) return "";
  return paragraph(
             fmt::format(
                 "Each mark is a configuration: its last evaluation, {} decoding, mean over sets and seeds. "
                 "Filled marks are on the Pareto front: no other configuration is at least as good in both "
                 "figures and better in one. Hollow marks are dominated.",
                 decoding),
             "caption") +
         note_list(notes_on_images(inputs, configurations, decoding)) + "<div class=\"charts wide\">\n" +
         charts + "</div>\n";
}

}  // namespace biqa
