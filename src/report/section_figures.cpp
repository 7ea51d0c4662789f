// SPDX-License-Identifier: Apache-2.0
// Figures of evaluations: before and after training, over the steps, and one against the other.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string_view>

#include "report/html.h"
#include "report/pareto.h"
#include "report/sections.h"
#include "report/style.h"

namespace biqa {
namespace {

struct EvaluationColumn {
  std::string_view name, title, condition;  ///< condition: empty for both
  int decimals = 3;
};
constexpr std::array<EvaluationColumn, 5> kColumns{{{"plcc", "PLCC", ""},
                                                    {"srcc", "SRCC", ""},
                                                    {"rmse", "RMSE", ""},
                                                    {"rouge1_r", "ROUGE-1 recall", "image"},
                                                    {"parse_failures", "Answers without rating", "", 0}}};

std::string from_condition(const std::string& condition) {
  return condition == "caption" ? "from the caption alone" : "from the picture";
}

std::string over_runs_text(const FigureOverRuns& figure, int decimals) {
  if (figure.runs < 2) return fixed_text(figure.mean, decimals);
  return fmt::format("{} [{}, {}]", fixed_text(figure.mean, std::max(decimals, 1)),
                     fixed_text(figure.least, decimals), fixed_text(figure.most, decimals));
}

/// Mean over the sets of the means over runs, for one condition and decoding; NaN if a set lacks it.
double mean_over_sets(const RunReportInputs& inputs, const Configuration& configuration,
                      const std::string& condition, const std::string& decoding, std::string_view column,
                      bool before) {
  double sum = 0;
  int sets = 0;
  for (const EvaluationKey& key : evaluation_keys(inputs.runs)) {
    if (key.condition != condition || key.decoding != decoding) continue;
    sum += evaluation_figure(configuration, key, column, before).mean;
    ++sets;
  }
  return sets > 0 ? sum / sets : kNotMeasured;
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

struct Tile {
  std::string_view title, column, condition;
  int decimals = 3;
};
constexpr std::array<Tile, 5> kTiles{{{"PLCC from the picture", "plcc", "image"},
                                      {"PLCC from the caption alone", "plcc", "caption"},
                                      {"RMSE from the picture", "rmse", "image"},
                                      {"ROUGE-1 recall", "rouge1_r", "image"},
                                      {"Answers without rating", "parse_failures", "image", 0}}};

std::string tiles(const RunReportInputs& inputs, Configurations configurations, const std::string& decoding) {
  std::string html = "<div class=\"tiles\">\n";
  for (const Tile& tile : kTiles) {
    std::string lines;
    for (const Configuration& configuration : configurations) {
      const std::string condition(tile.condition);
      const double before = mean_over_sets(inputs, configuration, condition, decoding, tile.column, true);
      const double after = mean_over_sets(inputs, configuration, condition, decoding, tile.column, false);
      if (!std::isfinite(before) && !std::isfinite(after)) continue;
      lines += fmt::format("<p>{}<b><i>{} →</i> {}</b></p>", escaped_html(configuration.name),
                           fixed_text(before, tile.decimals), fixed_text(after, tile.decimals));
    }
    if (!lines.empty()) html += fmt::format("<div class=\"tile\"><h3>{}</h3>{}</div>\n", tile.title, lines);
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

ChartLine evaluation_line(const Configuration& configuration, std::size_t colour, const EvaluationKey& key,
                          std::string_view column) {
  return {configuration.name + ", " + key.decoding, colour,
          key.decoding == "sampled" ? Stroke::dashed : Stroke::solid, true,
          evaluation_curve(configuration, key, column)};
}

/// The charts of one set.
std::string evaluation_charts(const RunReportInputs& inputs, Configurations configurations,
                              const std::string& set) {
  std::string html;
  for (const EvaluationColumn& column : kColumns) {
    for (const std::string condition : {"image", "caption"}) {
      if (!column.condition.empty() && column.condition != condition) continue;
      LineChart chart;
      chart.title = std::string(column.title);
      chart.unit = from_condition(condition);
      chart.smallest_step = column.decimals == 0 ? 1 : 0.01;
      for (std::size_t i = 0; i < configurations.size(); ++i) {
        for (const EvaluationKey& key : evaluation_keys(inputs.runs)) {
          if (key.set == set && key.condition == condition)
            chart.lines.push_back(evaluation_line(configurations[i], i, key, column.name));
        }
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
    {"rouge1_r", "image", "ROUGE-1 recall", "plcc", "image", "PLCC from the picture"},
    {"rouge1_r", "image", "ROUGE-1 recall", "plcc", "caption", "PLCC from the caption alone"},
    {"plcc", "caption", "PLCC from the caption alone", "plcc", "image", "PLCC from the picture"},
}};

std::string trade_off_chart(const RunReportInputs& inputs, Configurations configurations, const Axes& axes,
                            const std::string& decoding) {
  std::vector<TwoFigures> figures;
  for (const Configuration& configuration : configurations) {
    const auto figure = [&](std::string_view column, std::string_view condition) {
      return mean_over_sets(inputs, configuration, std::string(condition), decoding, column, false);
    };
    figures.push_back({figure(axes.first, axes.first_condition), figure(axes.second, axes.second_condition)});
  }
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
  std::string rule = fmt::format("Before training (step 0) → after it (last evaluation), with {} decoding{}.",
                                 decoding, sets > 1 ? fmt::format(", as the mean of {} sets", sets) : "");
  const bool seeds = std::any_of(configurations.begin(), configurations.end(),
                                 [](const Configuration& c) { return c.runs.size() > 1; });
  if (seeds)
    rule +=
        " For several seeds the figures are means over the runs; the table has the least and the greatest "
        "value in brackets.";
  return paragraph(rule, "caption") + tiles(inputs, configurations, decoding) +
         before_and_after(inputs, configurations) +
         paragraph(
             "PLCC and SRCC: correlation of ratings and human scores, of the values and of the ranks. RMSE: "
             "in "
             "units of the rating. ROUGE-1 recall: share of the words of the human text that the answer has.",
             "caption");
}

std::string evaluation_section(const RunReportInputs& inputs, Configurations configurations) {
  const std::set<std::string> sets = sets_of(inputs);
  if (sets.empty()) return paragraph("No evaluation has been recorded.");
  std::string html =
      configuration_legend(configurations) +
      paragraph(
          "Solid lines and filled marks: greedy decoding. Dashed lines and hollow marks: sampled. "
          "The number at the end of a line is its last value.",
          "caption");
  for (const std::string& set : sets) {
    if (sets.size() > 1) html += fmt::format("<h3>Set {}</h3>\n", escaped_html(set));
    html += "<div class=\"charts\">\n" + evaluation_charts(inputs, configurations, set) + "</div>\n";
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
         "<div class=\"charts wide\">\n" + charts + "</div>\n";
}

}  // namespace biqa
