// SPDX-License-Identifier: Apache-2.0
// The ticks of a chart's axis.
#pragma once

#include <string>

namespace biqa {

/// Ticks at multiples of 1, 2 or 5 times a power of ten. The first is `low`, the last is `high`.
struct Axis {
  double low = 0, high = 1, step = 1;

  /// The narrowest such axis that contains least … most with at most about `ticks` steps. Finer steps than
  /// `smallest_step` would enlarge noise. Both values must be finite, and `smallest_step` above 0 (CHECK).
  static Axis around(double least, double most, int ticks, double smallest_step);
  /// Number of steps between `low` and `high`.
  int count() const;
  double tick(int i) const { return low + step * i; }
  /// A tick's label. It has as many decimals as the step needs. Large ones have a suffix (20k, 3M, 5G), small ones an
  /// exponent.
  std::string text(double value) const;
};

}  // namespace biqa
