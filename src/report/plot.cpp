// SPDX-License-Identifier: Apache-2.0
#include "report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "report/html.h"

namespace biqa {

ValueRange::ValueRange()
    : least(std::numeric_limits<double>::infinity()), most(-std::numeric_limits<double>::infinity()) {}

void ValueRange::add(double value) {
  if (!std::isfinite(value)) return;
  least = std::min(least, value);
  most = std::max(most, value);
}

Plot::Plot(const PlotSize& size, const ValueRange& x, const ValueRange& y, bool exact_x,
           double smallest_x_step, double smallest_y_step, int ticks)
    : size_(size),
      x_axis_(Axis::around(x.least, x.most, ticks, smallest_x_step)),
      y_axis_(Axis::around(y.least, y.most, std::max(4, ticks - 1), smallest_y_step)),
      x_low_(exact_x ? x.least : x_axis_.low),
      x_high_(exact_x ? x.most : x_axis_.high) {}

double Plot::at_x(double x) const {
  const double from = size_.left, to = size_.width - size_.right;
  return x_high_ > x_low_ ? from + (x - x_low_) / (x_high_ - x_low_) * (to - from) : (from + to) / 2;
}

double Plot::at_y(double y) const {
  const double from = size_.height - size_.bottom, to = size_.top;
  return from + (y - y_axis_.low) / (y_axis_.high - y_axis_.low) * (to - from);
}

bool Plot::holds(double x, double y) const {
  return x >= x_low_ && x <= x_high_ && y >= y_axis_.low && y <= y_axis_.high;
}

std::string Plot::frame(const std::string& x_title, const std::string& y_title, bool x_grid) const {
  const double left = size_.left, right = size_.width - size_.right;
  const double bottom = size_.height - size_.bottom;
  std::string svg;
  for (int i = 0; i <= y_axis_.count(); ++i) {
    const double value = y_axis_.tick(i), y = at_y(value);
    svg += fmt::format(
        "<path class=\"{}\" d=\"M{:.1f} {:.1f}H{:.1f}\"/><text x=\"{:.1f}\" y=\"{:.1f}\" "
        "text-anchor=\"end\">{}</text>\n",
        i == 0 ? "axis" : "grid", left, y, right, left - 6, y + 4, y_axis_.text(value));
  }
  for (int i = 0; i <= x_axis_.count(); ++i) {
    const double value = x_axis_.tick(i);
    const double slack = (x_high_ - x_low_) * 1e-9;
    if (value < x_low_ - slack || value > x_high_ + slack) continue;
    const double x = at_x(value);
    if (x_grid)
      svg += fmt::format("<path class=\"grid\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>", x, size_.top, bottom);
    svg += fmt::format(
        "<path class=\"axis\" d=\"M{0:.1f} {1:.1f}v4\"/><text x=\"{0:.1f}\" y=\"{2:.1f}\" "
        "text-anchor=\"middle\">{3}</text>\n",
        x, bottom, bottom + 16, x_axis_.text(value));
  }
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", right,
                     size_.height - 4, escaped_html(x_title));
  if (!y_title.empty())
    svg += fmt::format("<text x=\"4\" y=\"{:.1f}\">{}</text>\n", size_.top - 8, escaped_html(y_title));
  return svg;
}

std::string svg_begin(double width, double height, const std::string& title, const std::string& description) {
  // A label instead of <title>, which would also be a tooltip over the whole image.
  return fmt::format("<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\"><desc>{}</desc>\n",
                     width, height, escaped_html(title), escaped_html(description));
}

}  // namespace biqa
