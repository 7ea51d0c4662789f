// SPDX-License-Identifier: Apache-2.0
#include "report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string_view>

#include "data/response.h"
#include "report/html.h"
#include "report/plot.h"
#include "report/style.h"

namespace biqa {
namespace {

constexpr double kLabelHeight = 13;
/// Points of a line beyond which they get no marks of their own.
constexpr std::size_t kMostMarks = 60;

std::string colour_class(std::size_t colour) {
  return fmt::format("c{}", colour % kChartColours);
}

std::string stroke_class(Stroke stroke) {
  return stroke == Stroke::dashed ? " dashed" : stroke == Stroke::dotted ? " dotted" : "";
}

/// The sign of a colour: circle, square, triangle or diamond.
std::string mark(std::size_t kind, double x, double y, std::string_view css, const std::string& tooltip) {
  std::string shape;
  switch (kind % 4) {
    case 0:
      shape = fmt::format("<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\">", css, x, y);
      break;
    case 1:
      shape = fmt::format("<path class=\"{}\" d=\"M{:.1f} {:.1f}h7v7h-7z\">", css, x - 3.5, y - 3.5);
      break;
    case 2:
      shape = fmt::format("<path class=\"{}\" d=\"M{:.1f} {:.1f}l4.6 8h-9.2z\">", css, x, y - 5);
      break;
    default:
      shape = fmt::format("<path class=\"{}\" d=\"M{:.1f} {:.1f}l5 5l-5 5l-5 -5z\">", css, x, y - 5);
  }
  shape += tooltip.empty() ? "" : fmt::format("<title>{}</title>", escaped_html(tooltip));
  return shape + (kind % 4 == 0 ? "</circle>" : "</path>");
}

bool drawable(const LinePoint& p) {
  return std::isfinite(p.x) && std::isfinite(p.y);
}
bool has_band(const LinePoint& p) {
  return drawable(p) && std::isfinite(p.low) && std::isfinite(p.high);
}

/// Calls `visit(first, last)` for each stretch of points that `belongs` holds for.
template <typename Belongs, typename Visit>
void for_stretches(const std::vector<LinePoint>& points, Belongs&& belongs, Visit&& visit) {
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (!belongs(points[i])) continue;
    const std::size_t first = i;
    while (i + 1 < points.size() && belongs(points[i + 1])) ++i;
    visit(first, i);
  }
}

std::string draw_band(const Plot& plot, const ChartLine& line) {
  std::string svg;
  for_stretches(line.points, has_band, [&](std::size_t first, std::size_t last) {
    std::string path;
    for (std::size_t i = first; i <= last; ++i)
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? 'M' : 'L', plot.at_x(line.points[i].x),
                          plot.at_y(line.points[i].high));
    for (std::size_t i = last + 1; i-- > first;)
      path += fmt::format("L{:.1f} {:.1f}", plot.at_x(line.points[i].x), plot.at_y(line.points[i].low));
    svg += fmt::format("<path class=\"band {}\" d=\"{}Z\"/>\n", colour_class(line.colour), path);
  });
  return svg;
}

std::string draw_line(const Plot& plot, const ChartLine& line) {
  std::string svg;
  const std::string colour = colour_class(line.colour);
  const bool marked = line.markers && line.points.size() <= kMostMarks;
  for_stretches(line.points, drawable, [&](std::size_t first, std::size_t last) {
    std::string path;
    for (std::size_t i = first; i <= last; ++i)
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? 'M' : 'L', plot.at_x(line.points[i].x),
                          plot.at_y(line.points[i].y));
    if (first == last) path += "h0";  // a point alone, which the round ends of the line make visible
    svg += fmt::format("<path class=\"line {}{}\" d=\"{}\"><title>{}</title></path>\n", colour,
                       first == last ? "" : stroke_class(line.stroke), path, escaped_html(line.name));
    for (std::size_t i = first; marked && i <= last; ++i) {
      const LinePoint& p = line.points[i];
      svg += mark(line.colour, plot.at_x(p.x), plot.at_y(p.y),
                  (line.stroke == Stroke::solid ? "dot " : "hollow ") + colour,
                  fmt::format("{}: {} at {}", line.name, figure_text(p.y), figure_text(p.x)));
    }
  });
  return svg;
}

struct Label {
  double x, y;
  std::string text;
};

/// Pushes labels apart until none covers another; they stay between top and bottom.
void spread(std::vector<Label>& labels, double top, double bottom) {
  std::sort(labels.begin(), labels.end(), [](const Label& a, const Label& b) { return a.y < b.y; });
  for (std::size_t i = 0; i < labels.size(); ++i)
    labels[i].y = std::max(labels[i].y, i == 0 ? top : labels[i - 1].y + kLabelHeight);
  for (std::size_t i = labels.size(); i-- > 0;)
    labels[i].y = std::min(labels[i].y, i + 1 == labels.size() ? bottom : labels[i + 1].y - kLabelHeight);
}

std::string draw_last_values(const Plot& plot, const LineChart& chart) {
  std::vector<Label> labels;
  for (const ChartLine& line : chart.lines) {
    const auto last = std::find_if(line.points.rbegin(), line.points.rend(), drawable);
    if (!line.markers || last == line.points.rend()) continue;
    const Label label{
        plot.at_x(last->x) + 8, plot.at_y(last->y) + 4,
        last->y == std::round(last->y) ? figure_text(last->y) : fixed_text(last->y, chart.label_decimals)};
    const bool known = std::any_of(labels.begin(), labels.end(), [&](const Label& other) {
      return other.text == label.text && std::abs(other.y - label.y) < 1;
    });
    if (!known) labels.push_back(label);
  }
  spread(labels, plot.size().top + 4, plot.size().height - plot.size().bottom);
  std::string svg;
  for (const Label& label : labels)
    svg += fmt::format("<text class=\"strong\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", label.x, label.y,
                       label.text);
  return svg;
}

std::string value_cell(const LinePoint& p) {
  if (!has_band(p)) return figure_text(p.y);
  return fmt::format("{} [{}, {}]", figure_text(p.y), figure_text(p.low), figure_text(p.high));
}

std::string line_table(const LineChart& chart) {
  std::vector<HtmlTable::Column> columns{{chart.x_title}};
  std::map<double, std::vector<std::string>> rows;
  for (const ChartLine& line : chart.lines) columns.push_back({line.name});
  for (std::size_t i = 0; i < chart.lines.size(); ++i) {
    for (const LinePoint& p : chart.lines[i].points) {
      if (!std::isfinite(p.x)) continue;
      auto& row = rows.try_emplace(p.x, chart.lines.size(), kNoValue).first->second;
      row[i] = value_cell(p);
    }
  }
  HtmlTable table(chart.title, columns);
  for (auto& [x, cells] : rows) {
    cells.insert(cells.begin(), figure_text(x));
    table.add(cells);
  }
  return table.html();
}

std::string figure_of(const std::string& title, const std::string& unit, const std::string& svg,
                      const std::string& table) {
  return fmt::format("<figure><figcaption>{}{}</figcaption>\n{}</svg>\n{}</figure>\n", escaped_html(title),
                     unit.empty() ? "" : fmt::format(" <span>{}</span>", escaped_html(unit)), svg,
                     table.empty() ? "" : folded("Values", table));
}

std::string description_of(const LineChart& chart) {
  std::string text;
  for (const ChartLine& line : chart.lines) {
    const auto first = std::find_if(line.points.begin(), line.points.end(), drawable);
    if (first == line.points.end()) continue;
    const auto last = std::find_if(line.points.rbegin(), line.points.rend(), drawable);
    text += fmt::format("{}: {} at {} {}, {} at {} {}. ", line.name, figure_text(first->y), chart.x_title,
                        figure_text(first->x), figure_text(last->y), chart.x_title, figure_text(last->x));
  }
  return text;
}

bool is_finite(const ChartPoint& p) {
  return std::isfinite(p.x) && std::isfinite(p.y);
}

/// Room for the marks and their labels at the edges.
void widen(ValueRange& range) {
  const double room = 0.1 * (range.most - range.least);
  range.least -= room;
  range.most += room;
}

std::string draw_cloud(const Plot& plot, const PointGroup& group) {
  std::string path;
  for (const ChartPoint& p : group.points) {
    if (is_finite(p) && plot.holds(p.x, p.y))
      path += fmt::format("M{:.1f} {:.1f}h0", plot.at_x(p.x), plot.at_y(p.y));
  }
  return path.empty()
             ? ""
             : fmt::format("<path class=\"cloud {}\" d=\"{}\"/>\n", colour_class(group.colour), path);
}

std::string draw_points(const Plot& plot, const PointGroup& group) {
  std::string svg;
  for (const ChartPoint& p : group.points) {
    if (!is_finite(p) || !plot.holds(p.x, p.y)) continue;
    const double at_x = plot.at_x(p.x), at_y = plot.at_y(p.y);
    svg += mark(group.colour, at_x, at_y, (p.hollow ? "hollow " : "dot ") + colour_class(group.colour),
                fmt::format("{}: {}, {}", p.name, figure_text(p.x), figure_text(p.y)));
    if (p.label.empty()) continue;
    const bool left = at_x > plot.size().width / 2;
    svg += fmt::format("<text class=\"strong\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
                       at_x + (left ? -8 : 8), at_y - 6, left ? "end" : "start", escaped_html(p.label));
  }
  return svg;
}

}  // namespace

double constant_value(const LineChart& chart) {
  ValueRange range;
  for (const ChartLine& line : chart.lines) {
    for (const LinePoint& p : line.points) {
      for (const double value : {p.y, p.low, p.high}) range.add(value);
    }
  }
  return range.least == range.most ? range.least : std::numeric_limits<double>::quiet_NaN();
}

std::string line_chart(const LineChart& chart) {
  ValueRange x, y;
  bool labelled = false;
  for (const ChartLine& line : chart.lines) {
    labelled = labelled || line.markers;
    for (const LinePoint& p : line.points) {
      if (!drawable(p)) continue;
      x.add(p.x);
      for (const double value : {p.y, p.low, p.high}) y.add(value);
    }
  }
  if (x.empty()) return "";
  if (y.least == y.most) {  // a value that never changes is seen against zero
    y.add(0);
    if (y.most == 0) y.add(chart.smallest_step);
  }
  PlotSize size;
  if (labelled) size.right = 46;
  const Plot plot(size, x, y, true, 1, chart.smallest_step);
  std::string svg = svg_begin(size.width, size.height, chart.title, description_of(chart));
  svg += plot.frame(chart.x_title);
  for (const ChartLine& line : chart.lines) svg += draw_band(plot, line);
  for (const ChartLine& line : chart.lines) svg += draw_line(plot, line);
  svg += draw_last_values(plot, chart);
  return figure_of(chart.title, chart.unit, svg, line_table(chart));
}

std::string point_chart(const PointChart& chart) {
  ValueRange x, y;
  for (ValueRange* range : {&x, &y}) {
    range->add(chart.least);
    range->add(chart.most);
  }
  // A fixed range also limits what is drawn, so that a single value far away does not hide the others.
  const bool fixed = !x.empty();
  HtmlTable table(chart.title, {{"name", false}, {chart.x_title}, {chart.y_title}});
  for (const PointGroup& group : chart.groups) {
    for (const ChartPoint& p : group.points) {
      if (!is_finite(p)) continue;
      if (!chart.cloud) table.add({p.name, figure_text(p.x), figure_text(p.y)});
      if (fixed) continue;
      x.add(p.x);
      y.add(p.y);
    }
  }
  if (x.empty()) return "";
  if (!fixed) {
    widen(x);
    widen(y);
  }
  const PlotSize size{400, 290, 46, 20, 26, 36};
  const Plot plot(size, x, y, false, 1e-9, 1e-9, fixed ? 7 : 5);
  std::string svg = svg_begin(size.width, size.height, chart.title,
                              fmt::format("{} against {}", chart.y_title, chart.x_title));
  svg += plot.frame(chart.x_title, chart.y_title, true);
  if (chart.diagonal) {
    const double low = std::max(plot.x_low(), plot.y_axis().low);
    const double high = std::min(plot.x_high(), plot.y_axis().high);
    svg += fmt::format("<path class=\"axis dashed\" d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\"/>\n", plot.at_x(low),
                       plot.at_y(low), plot.at_x(high), plot.at_y(high));
  }
  std::string curve;
  for (const LinePoint& p : chart.curve) {
    if (!drawable(p) || !plot.holds(p.x, p.y)) continue;
    curve += fmt::format("{}{:.1f} {:.1f}", curve.empty() ? 'M' : 'L', plot.at_x(p.x), plot.at_y(p.y));
  }
  const std::string drawn_curve = curve.empty() ? ""
                                                : fmt::format("<path class=\"line {}\" d=\"{}\"/>\n",
                                                              colour_class(chart.curve_colour), curve);
  // The curve lies above a cloud, which would hide it, and below single marks.
  if (!chart.cloud) svg += drawn_curve;
  for (const PointGroup& group : chart.groups)
    svg += chart.cloud ? draw_cloud(plot, group) : draw_points(plot, group);
  if (chart.cloud) svg += drawn_curve;
  return figure_of(chart.title, chart.unit, svg, chart.cloud ? "" : table.html());
}

std::string bar_chart(const std::string& title, const std::string& unit, const std::vector<Bar>& bars) {
  constexpr double kBarHeight = 20, kRow = 46;
  ValueRange x, unused;
  x.add(0);
  unused.add(0);
  const auto counts = [](const BarPart& part) { return std::isfinite(part.value) && part.value > 0; };
  std::string description;
  HtmlTable table(title, {{"name", false}, {"part", false}, {unit}});
  for (const Bar& bar : bars) {
    double sum = 0;
    for (const BarPart& part : bar.parts) {
      table.add({bar.name, part.name, figure_text(part.value)});
      if (counts(part)) sum += part.value;
    }
    x.add(sum);
    description += fmt::format("{}: {} {}. ", bar.name, figure_text(sum), unit);
  }
  if (x.most <= 0) return "";
  PlotSize size{420, 0, 4, 12, 4, 34};
  size.height = size.top + kRow * static_cast<double>(bars.size()) + size.bottom;
  const Plot plot(size, x, unused, false, 1e-9, 1);
  std::string svg = svg_begin(size.width, size.height, title, description);
  const double bottom = size.height - size.bottom;
  const Axis axis = Axis::around(0, x.most, 5, 1e-9);
  for (int i = 0; i <= axis.count(); ++i) {
    const double at = plot.at_x(axis.tick(i));
    svg += fmt::format(
        "<path class=\"grid\" d=\"M{0:.1f} {1:.1f}V{2:.1f}\"/><text x=\"{0:.1f}\" y=\"{3:.1f}\" "
        "text-anchor=\"{4}\">{5}</text>\n",
        at, size.top, bottom, bottom + 16, i == 0 ? "start" : "middle", axis.text(axis.tick(i)));
  }
  double y = size.top;
  for (const Bar& bar : bars) {
    svg += fmt::format("<text class=\"strong\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", size.left + 2, y + 12,
                       escaped_html(bar.name));
    double from = 0;
    for (const BarPart& part : bar.parts) {
      if (!counts(part)) continue;
      const double begin = plot.at_x(from), end = plot.at_x(from + part.value);
      svg += fmt::format(
          "<rect class=\"bar {}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\"><title>{}: {} "
          "{}</title></rect>",
          colour_class(part.colour), begin, y + 18, std::max(end - begin - 1, 0.5), kBarHeight,
          escaped_html(part.name), figure_text(part.value), escaped_html(unit));
      from += part.value;
    }
    svg += '\n';
    y += kRow;
  }
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
                     size.width - size.right, size.height - 4, escaped_html(unit));
  return "<div class=\"bars\">" + figure_of(title, "", svg, table.html()) + "</div>\n";
}

std::string legend(const std::vector<LegendEntry>& entries) {
  using Sign = LegendEntry::Sign;
  std::string out = "<ul class=\"legend\">";
  for (const LegendEntry& entry : entries) {
    const std::string colour = colour_class(entry.colour);
    std::string sign;
    switch (entry.sign) {
      case Sign::band:
        sign = fmt::format("<path class=\"band {}\" d=\"M0 1h30v10H0z\"/>", colour);
        break;
      case Sign::bar:
        sign = fmt::format("<path class=\"bar {}\" d=\"M8 0h14v12H8z\"/>", colour);
        break;
      case Sign::point:
      case Sign::hollow:
        sign = mark(entry.colour, 15, 6, (entry.sign == Sign::point ? "dot " : "hollow ") + colour, "");
        break;
      default:
        sign = fmt::format("<path class=\"line {}{}\" d=\"M1 6h28\"/>", colour,
                           stroke_class(entry.sign == Sign::dashed   ? Stroke::dashed
                                        : entry.sign == Sign::dotted ? Stroke::dotted
                                                                     : Stroke::solid));
    }
    out += fmt::format("<li><svg viewBox=\"0 0 30 12\" aria-hidden=\"true\">{}</svg>{}</li>", sign,
                       escaped_html(entry.text));
  }
  return out + "</ul>\n";
}

std::string rating_scale(double score, double rating, double caption_rating) {
  constexpr double kWidth = 320, kHeight = 34, kLeft = 14, kLine = 14;
  const auto at = [&](double value) {
    const double share =
        (std::clamp(value, kLeastRating, kMostRating) - kLeastRating) / (kMostRating - kLeastRating);
    return kLeft + share * (kWidth - 2 * kLeft);
  };
  std::string svg = fmt::format(
      "<svg class=\"scale\" viewBox=\"0 0 {:.0f} {:.0f}\" aria-hidden=\"true\"><path class=\"axis\" "
      "d=\"M{:.0f} {:.0f}H{:.0f}\"/>",
      kWidth, kHeight, kLeft, kLine, kWidth - kLeft);
  for (int i = static_cast<int>(kLeastRating); i <= static_cast<int>(kMostRating); ++i) {
    svg += fmt::format(
        "<path class=\"axis\" d=\"M{0:.1f} {1:.0f}v4\"/><text x=\"{0:.1f}\" y=\"{2:.0f}\" "
        "text-anchor=\"middle\">{3}</text>",
        at(i), kLine, kHeight - 4, i);
  }
  // The kinds of marks are those of the colours with the same index: diamond, circle, square.
  for (const auto& [value, kind] : {std::pair(score, std::size_t{3}), {caption_rating, 1}, {rating, 0}}) {
    if (std::isfinite(value))
      svg += mark(kind, at(value), kLine, kind == 3 ? "hollow c3" : "dot " + colour_class(kind), "");
  }
  return svg + "</svg>\n";
}

}  // namespace biqa
