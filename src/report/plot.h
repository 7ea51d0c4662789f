// SPDX-License-Identifier: Apache-2.0
// The frame of a chart: axes with ticks, and the mapping of values to places in the image.
#pragma once

#include <string>

#include "run/axis.h"

namespace biqa {

/// Range of the finite values that were added.
struct ValueRange {
  double least, most;

  ValueRange();
  void add(double value);
  bool empty() const { return least > most; }
};

/// Sizes in the units of the image.
struct PlotSize {
  double width = 380, height = 220;
  double left = 46, right = 14, top = 12, bottom = 34;
};

class Plot {
 public:
  /// The axis of x reaches exactly from least to most if `exact_x`, otherwise from tick to tick.
  /// `ticks`: most steps between the ticks of x; y has one less, because images are wider than high.
  Plot(const PlotSize& size, const ValueRange& x, const ValueRange& y, bool exact_x, double smallest_x_step,
       double smallest_y_step, int ticks = 5);

  double at_x(double x) const;
  double at_y(double y) const;
  double x_low() const { return x_low_; }
  double x_high() const { return x_high_; }
  const Axis& y_axis() const { return y_axis_; }
  const PlotSize& size() const { return size_; }
  /// Whether the place is inside the frame.
  bool holds(double x, double y) const;
  /// Grid lines, ticks and titles of the axes.
  std::string frame(const std::string& x_title, const std::string& y_title = "", bool x_grid = false) const;

 private:
  PlotSize size_;
  Axis x_axis_, y_axis_;
  double x_low_, x_high_;
};

/// The opening tag of an image with its title and description, which screen readers read.
std::string svg_begin(double width, double height, const std::string& title, const std::string& description);

}  // namespace biqa
