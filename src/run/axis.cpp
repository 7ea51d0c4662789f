// SPDX-License-Identifier: Apache-2.0
#include "run/axis.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace biqa {
namespace {

/// Beyond this, differences of two values overflow.
constexpr double kLargest = 1e300;
/// Finer steps, as a share of the largest value, would be lost in rounding.
constexpr double kFinest = 1e-9;

int decimals_of(double step) {
  return std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 8);
}

}  // namespace

Axis Axis::around(double least, double most, int ticks, double smallest_step) {
  CHECK(std::isfinite(least) && std::isfinite(most) && smallest_step > 0);
  least = std::clamp(least, -kLargest, kLargest);
  most = std::clamp(most, least, kLargest);
  smallest_step = std::max(smallest_step, kFinest * std::max(std::abs(least), std::abs(most)));
  const double span = std::max(most - least, smallest_step);
  const double power = std::pow(10.0, std::floor(std::log10(span / ticks)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0}) {
    if (span / (factor * power) <= ticks) step = factor * power;
  }
  step = std::max(step, smallest_step);
  Axis axis{std::floor(least / step + 1e-9) * step, std::ceil(most / step - 1e-9) * step, step};
  if (axis.high - axis.low < step / 2) axis = {axis.low - step, axis.low + step, step};
  return axis;
}

int Axis::count() const {
  return static_cast<int>(std::llround((high - low) / step));
}

std::string Axis::text(double value) const {
  // Minus zero is a result of rounding, so it is printed as zero.
  if (std::abs(value) < step / 1e6) value = 0;
  const double largest = std::max(std::abs(low), std::abs(high));
  if (largest >= 1e15 || step < 1e-4) return value == 0 ? "0" : fmt::format("{:.3g}", value);
  if (largest >= 1e4) {
    if (value == 0) return "0";
    for (const auto& [unit, suffix] : {std::pair(1e12, "T"), {1e9, "G"}, {1e6, "M"}, {1e3, "k"}}) {
      if (largest >= unit) return fmt::format("{:.{}f}{}", value / unit, decimals_of(step / unit), suffix);
    }
  }
  return fmt::format("{:.{}f}", value, decimals_of(step));
}

}  // namespace biqa
