// SPDX-License-Identifier: Apache-2.0
// Charts as <figure> elements: an SVG image with title and description, and the same numbers as a table below it. Colours
// are classes of the page's style sheet. No value that is not finite is drawn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace biqa {

enum class Stroke : std::uint8_t { solid, dashed, dotted };

/// `low` and `high`: the band around the value; NaN: none.
struct LinePoint {
  double x = 0, y = 0;
  double low = std::numeric_limits<double>::quiet_NaN(), high = std::numeric_limits<double>::quiet_NaN();
};

struct ChartLine {
  std::string name;
  std::size_t colour = 0;  ///< index; colours repeat
  Stroke stroke = Stroke::solid;
  bool markers = false;  ///< each point is marked, and the last value is written beside it
  std::vector<LinePoint> points;
};

struct LineChart {
  std::string title, unit, x_title = "step";
  std::vector<ChartLine> lines;
  double smallest_step = 1e-9;  ///< between ticks of the value axis; finer steps would enlarge noise
  int label_decimals = 2;       ///< of the last values; a whole number has none
};
/// The value that all points of all lines have; NaN if they differ, or without any.
double constant_value(const LineChart& chart);
/// A line has a gap where a value is not finite. Returns nothing if no line has a finite value.
std::string line_chart(const LineChart& chart);

struct ChartPoint {
  double x = 0, y = 0;
  std::string label;  ///< written beside it if not empty
  std::string name;   ///< shown by a tooltip and in the table
  bool hollow = false;
};
struct PointGroup {
  std::string name;
  std::size_t colour = 0;
  std::vector<ChartPoint> points;
};
struct PointChart {
  std::string title, unit, x_title, y_title;
  std::vector<PointGroup> groups;
  std::vector<LinePoint> curve;  ///< drawn through the points; `low` and `high` are ignored
  std::size_t curve_colour = 0;
  bool cloud = false;     ///< small points without names and without table, for thousands of them
  bool diagonal = false;  ///< the line on which both values are equal
  double least = std::numeric_limits<double>::infinity();  ///< both axes contain least … most
  double most = -least;
};
std::string point_chart(const PointChart& chart);

struct BarPart {
  std::string name;
  std::size_t colour = 0;
  double value = 0;
};
struct Bar {
  std::string name;
  std::vector<BarPart> parts;
};
/// Horizontal stacked bars from zero. Negative and missing parts are left out.
std::string bar_chart(const std::string& title, const std::string& unit, const std::vector<Bar>& bars);

struct LegendEntry {
  std::string text;
  std::size_t colour = 0;
  enum class Sign : std::uint8_t { line, dashed, dotted, band, point, hollow, bar } sign = Sign::line;
};
std::string legend(const std::vector<LegendEntry>& entries);

/// The 1 … 5 scale with up to three signs on it: the human score (diamond), the rating from the image (circle) and the
/// rating from the caption (square). NaN: none. Values outside the scale are drawn at its end.
std::string rating_scale(double score, double rating, double caption_rating);

}  // namespace biqa
