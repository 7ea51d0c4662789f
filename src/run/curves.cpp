// SPDX-License-Identifier: Apache-2.0
#include "run/curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "core/markup.h"
#include "run/axis.h"

namespace biqa {
namespace {

struct Point {
  double x, y;
};
using Curve = std::vector<Point>;

struct Series {
  Curve curve;
  std::string css;   // class of its colour
  std::string name;  // for the tooltip
  bool points_only = false;
  bool labelled = false;  // first and last value are written next to their points
};

struct Panel {
  std::string title, unit;
  std::vector<Series> series;
  double least_step = 0.01;  // of the value axis; finer steps would enlarge noise
};

// Pixels.
constexpr std::size_t kColumns = 3;
constexpr double kPanelWidth = 340, kPanelHeight = 214, kGap = 12, kMargin = 24, kHeader = 84;
constexpr double kLeft = 50, kRight = 16, kTop = 34, kBottom = 34;
constexpr double kLabelHeight = 12;

constexpr std::string_view kStyle =
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1f2328}"
    ".page{fill:#ffffff}.card{fill:#f6f8fa;stroke:#d8dee4}"
    ".title{font-size:18px;font-weight:600}.head{font-size:13px;font-weight:600}"
    ".small{font-size:11px;fill:#59636e}.value{font-size:11px;font-weight:600}"
    ".grid{stroke:#d8dee4;stroke-width:1}.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:"
    "round}"
    ".reward{stroke:#0969da}.reward-dot{fill:#0969da;opacity:.28}"
    ".greedy{stroke:#1a7f37}.greedy-dot{fill:#1a7f37}.sampled{stroke:#bc4c00}.sampled-dot{fill:#bc4c00}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.card{fill:#161b22;stroke:#"
    "30363d}"
    ".small{fill:#9198a1}.grid{stroke:#30363d}.reward{stroke:#58a6ff}.reward-dot{fill:#58a6ff}"
    ".greedy{stroke:#3fb950}.greedy-dot{fill:#3fb950}.sampled{stroke:#f0883e}.sampled-dot{fill:#f0883e}}";

Curve finite(const Curve& curve) {
  Curve kept;
  std::copy_if(curve.begin(), curve.end(), std::back_inserter(kept),
               [](const Point& p) { return std::isfinite(p.x) && std::isfinite(p.y); });
  return kept;
}

std::size_t smoothing_window(std::size_t count) {
  return std::max<std::size_t>(1, count / 10);
}

// Mean of the points around each; the window narrows at the ends so that the line starts and ends where the points do.
Curve running_mean(const Curve& curve, std::size_t window) {
  Curve mean;
  for (std::size_t i = 0; i < curve.size(); ++i) {
    const std::size_t reach = std::min({window / 2, i, curve.size() - 1 - i});
    double sum = 0;
    for (std::size_t j = i - reach; j <= i + reach; ++j) sum += curve[j].y;
    mean.push_back({curve[i].x, sum / static_cast<double>(2 * reach + 1)});
  }
  return mean;
}

struct Label {
  double x, y;
  std::string text, anchor;
};

// Pushes labels of one side apart until none covers another; they stay between top and bottom.
void spread(std::vector<Label>& labels, double top, double bottom) {
  std::sort(labels.begin(), labels.end(), [](const Label& a, const Label& b) { return a.y < b.y; });
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const double least = i == 0 ? top : labels[i - 1].y + kLabelHeight;
    labels[i].y = std::max(labels[i].y, least);
  }
  for (std::size_t i = labels.size(); i-- > 0;) {
    const double most = i + 1 == labels.size() ? bottom : labels[i + 1].y - kLabelHeight;
    labels[i].y = std::min(labels[i].y, most);
  }
}

std::string draw_panel(const Panel& panel, double left, double top, double least_x, double most_x) {
  double least = INFINITY, most = -INFINITY;
  for (const Series& series : panel.series) {
    for (const Point& p : series.curve) {
      least = std::min(least, p.y);
      most = std::max(most, p.y);
    }
  }
  const bool labelled =
      std::any_of(panel.series.begin(), panel.series.end(), [](const Series& s) { return s.labelled; });
  const Axis y_axis = Axis::around(least, most, 4, panel.least_step);
  const Axis x_axis = Axis::around(least_x, most_x, 5, 1);
  // Values of evaluations are written next to their points, which needs room on the left and right.
  const double room = labelled ? 42 : 6;
  const double x0 = left + kLeft + room, x1 = left + kPanelWidth - kRight - room;
  const double y0 = top + kPanelHeight - kBottom, y1 = top + kTop + 8;
  const auto at_x = [&](double x) {
    return most_x > least_x ? x0 + (x - least_x) / (most_x - least_x) * (x1 - x0) : (x0 + x1) / 2;
  };
  const auto at_y = [&](double y) { return y0 - (y - y_axis.low) / (y_axis.high - y_axis.low) * (y0 - y1); };

  std::string svg = fmt::format(
      "<g><rect class=\"card\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"6\"/>"
      "<text class=\"head\" x=\"{:.1f}\" y=\"{:.1f}\">{}<tspan class=\"small\" font-weight=\"400\" "
      "dx=\"6\">{}</tspan></text>\n",
      left, top, kPanelWidth, kPanelHeight, left + 14, top + 22, escaped_markup(panel.title),
      escaped_markup(panel.unit));
  for (int i = 0; i <= y_axis.count(); ++i) {
    const double y = at_y(y_axis.tick(i));
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text class=\"small\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
        left + kLeft, y, left + kPanelWidth - kRight, y, left + kLeft - 6, y + 4,
        y_axis.text(y_axis.tick(i)));
  }
  for (int i = 0; i <= x_axis.count(); ++i) {
    const double x = x_axis.tick(i);
    if (x < least_x || x > most_x) continue;
    svg += fmt::format("<text class=\"small\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                       at_x(x), y0 + 16, x_axis.text(x));
  }
  svg += fmt::format("<text class=\"small\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">step</text>\n",
                     left + kPanelWidth - kRight, y0 + 28);

  std::vector<Label> first, last;
  for (const Series& series : panel.series) {
    if (series.curve.empty()) continue;
    if (!series.points_only) {
      std::string path;
      for (const Point& p : series.curve)
        path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", at_x(p.x), at_y(p.y));
      svg += fmt::format("<path class=\"line {}\" d=\"{}\"><title>{}</title></path>\n", series.css, path,
                         escaped_markup(series.name));
    }
    if (series.points_only || series.labelled) {
      for (const Point& p : series.curve) {
        svg += fmt::format("<circle class=\"{}-dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"/>", series.css,
                           at_x(p.x), at_y(p.y), series.labelled ? 3.5 : 2);
      }
      svg += '\n';
    }
    if (series.labelled) {
      const auto label = [&](const Point& p, double shift, const char* anchor) {
        return Label{at_x(p.x) + shift, at_y(p.y) + 4, fmt::format("{:.3f}", p.y), anchor};
      };
      first.push_back(label(series.curve.front(), -7, "end"));
      if (series.curve.size() > 1) last.push_back(label(series.curve.back(), 7, "start"));
    }
  }
  for (std::vector<Label>* labels : {&first, &last}) {
    spread(*labels, y1 + 4, y0 + 4);
    for (const Label& label : *labels) {
      svg += fmt::format("<text class=\"value\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
                         label.x, label.y, label.anchor, label.text);
    }
  }
  return svg + "</g>\n";
}

void add_step_panel(std::vector<Panel>& panels, const std::vector<StepMetrics>& steps, std::string title,
                    std::string unit, const std::function<double(const StepMetrics&)>& figure,
                    double least_step = 0.01) {
  Curve curve;
  for (const StepMetrics& step : steps) curve.push_back({static_cast<double>(step.step), figure(step)});
  curve = finite(curve);
  if (curve.empty()) return;
  Curve mean = running_mean(curve, smoothing_window(curve.size()));
  panels.push_back({std::move(title),
                    std::move(unit),
                    {{std::move(curve), "reward", "each step", true, false},
                     {std::move(mean), "reward", "running mean", false, false}},
                    least_step});
}

void add_eval_panel(std::vector<Panel>& panels, const std::vector<EvalMetrics>& evaluations,
                    std::string title, std::string unit, const std::string& condition,
                    double EvalMetrics::*member) {
  Panel panel{std::move(title), std::move(unit), {}};
  for (const char* decoding : {"greedy", "sampled"}) {
    // step → sum and count over sets.
    std::map<std::int64_t, std::pair<double, int>> by_step;
    for (const EvalMetrics& eval : evaluations) {
      if (eval.condition != condition || eval.decoding != decoding || !std::isfinite(eval.*member)) continue;
      auto& [sum, count] = by_step[eval.step];
      sum += eval.*member;
      ++count;
    }
    Curve curve;
    for (const auto& [step, total] : by_step)
      curve.push_back({static_cast<double>(step), total.first / total.second});
    if (!curve.empty()) panel.series.push_back({std::move(curve), decoding, decoding, false, true});
  }
  if (!panel.series.empty()) panels.push_back(std::move(panel));
}

}  // namespace

std::string learning_curves_svg(const MetricsFile& metrics, const std::string& title) {
  std::vector<Panel> panels;
  const auto& steps = metrics.steps;
  add_step_panel(panels, steps, "Total reward", "weighted sum", &StepMetrics::reward_mean);
  for (std::size_t i = 0; i < rewards().size(); ++i) {
    add_step_panel(panels, steps, std::string(rewards()[i].title), std::string(rewards()[i].range),
                   [i](const StepMetrics& step) { return step.reward_means[i]; });
  }
  add_step_panel(panels, steps, "KL to the starting policy", "nats per token", &StepMetrics::kl, 1e-6);
  const auto& evaluations = metrics.evaluations;
  add_eval_panel(panels, evaluations, "Ratings with the image", "PLCC", "image", &EvalMetrics::plcc);
  add_eval_panel(panels, evaluations, "Ratings from the caption alone", "PLCC", "caption",
                 &EvalMetrics::plcc);
  add_eval_panel(panels, evaluations, "Words shared with human texts", "ROUGE-1 recall, without chance level",
                 "image", &EvalMetrics::rouge1_r);

  double least_x = INFINITY, most_x = -INFINITY;
  for (const Panel& panel : panels) {
    for (const Series& series : panel.series) {
      least_x = std::min(least_x, series.curve.front().x);
      most_x = std::max(most_x, series.curve.back().x);
    }
  }
  std::set<std::string> sets;
  for (const EvalMetrics& eval : evaluations) sets.insert(eval.set);

  const std::size_t rows = std::max<std::size_t>(1, (panels.size() + kColumns - 1) / kColumns);
  const double width = 2 * kMargin + kColumns * kPanelWidth + (kColumns - 1) * kGap;
  const double height = kHeader + static_cast<double>(rows) * (kPanelHeight + kGap) - kGap + kMargin;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" "
      "role=\"img\"><title>{2}</title><style>{3}</style>\n<rect class=\"page\" width=\"100%\" "
      "height=\"100%\"/>\n"
      "<text class=\"title\" x=\"{4:.0f}\" y=\"38\">{2}</text>\n",
      width, height, escaped_markup(title), kStyle, kMargin);

  double x = kMargin;
  const auto legend = [&](const std::string& mark, const std::string& text) {
    svg += fmt::format(
        "<g transform=\"translate({:.0f},62)\">{}<text class=\"small\" x=\"24\" y=\"4\">{}</text></g>\n", x,
        mark, escaped_markup(text));
    // An over-estimate of the text's width at 11 px.
    x += 44 + 6.2 * static_cast<double>(text.size());
  };
  const auto stroke = [](std::string_view css) {
    return fmt::format("<path class=\"line {}\" d=\"M0 0H18\"/>", css);
  };
  if (!steps.empty()) {
    legend("<circle class=\"reward-dot\" cx=\"9\" cy=\"0\" r=\"3\"/>", "one step");
    legend(stroke("reward"),
           fmt::format("running mean of {} steps", 2 * (smoothing_window(steps.size()) / 2) + 1));
  }
  if (!evaluations.empty()) {
    const std::string over = sets.size() == 1 ? *sets.begin() : fmt::format("mean of {} sets", sets.size());
    legend(stroke("greedy") + "<circle class=\"greedy-dot\" cx=\"9\" cy=\"0\" r=\"3.5\"/>",
           fmt::format("evaluation ({}), greedy", over));
    legend(stroke("sampled") + "<circle class=\"sampled-dot\" cx=\"9\" cy=\"0\" r=\"3.5\"/>",
           "evaluation, sampled");
  }
  if (panels.empty())
    svg += fmt::format("<text class=\"head\" x=\"{:.0f}\" y=\"120\">No step has been recorded yet.</text>\n",
                       kMargin);
  for (std::size_t i = 0; i < panels.size(); ++i) {
    const std::size_t column = i % kColumns, row = i / kColumns;
    svg += draw_panel(panels[i], kMargin + static_cast<double>(column) * (kPanelWidth + kGap),
                      kHeader + static_cast<double>(row) * (kPanelHeight + kGap), least_x, most_x);
  }
  return svg + "</svg>\n";
}

}  // namespace biqa
