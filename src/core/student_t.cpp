// SPDX-License-Identifier: Apache-2.0
// Student's t distribution.
#include <cmath>
#include <limits>

#include "core/statistics.h"

namespace biqa {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

/// The continued fraction of the incomplete beta function, by the modified method of Lentz: DLMF 8.17.22. It converges
/// quickly for x < (a + 1) / (a + b + 2).
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  const auto safe = [](double value) { return std::abs(value) < kTiny ? kTiny : value; };
  double c = 1, d = 1 / safe(1 - (a + b) * x / (a + 1)), fraction = d;
  for (int m = 1; m <= 10000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double change = 1;
    for (const double part : {even, odd}) {
      d = 1 / safe(1 + part * d);
      c = safe(1 + part / c);
      change = c * d;
      fraction *= change;
    }
    if (std::abs(change - 1) < 1e-16) break;
  }
  return fraction;
}

/// The regularised incomplete beta function I_x(a, b) where beta_fraction() converges quickly; y is 1 - x.
double lower_share(double a, double b, double x, double y) {
  const double front =
      std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log(y));
  return front * beta_fraction(a, b, x) / a;
}

/// I_x(a, b) everywhere.
double beta_share(double a, double b, double x, double y) {
  if (x <= 0) return 0;
  if (y <= 0) return 1;
  return x > (a + 1) / (a + b + 2) ? 1 - lower_share(b, a, y, x) : lower_share(a, b, x, y);
}

/// The share of the distribution above t, for t >= 0.
double share_above(double t, double degrees) {
  const double square = t * t;
  return beta_share(degrees / 2, .5, degrees / (degrees + square), square / (degrees + square)) / 2;
}

}  // namespace

double student_t_quantile(double share, double degrees) {
  if (!(share > 0 && share < 1 && degrees >= 1)) return kUndefined;
  if (share < .5) return -student_t_quantile(1 - share, degrees);
  const double above = 1 - share;
  double low = 0, high = 1;
  while (share_above(high, degrees) > above && high < 1e100) high *= 2;
  for (;;) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) return middle;
    (share_above(middle, degrees) > above ? low : high) = middle;
  }
}

Interval student_t_interval(std::span<const double> values) {
  if (values.size() < 2) return {kUndefined, kUndefined};
  const auto count = static_cast<double>(values.size());
  const double centre = mean(values);
  const double reach = student_t_quantile(.975, count - 1) * standard_deviation(values) / std::sqrt(count);
  return {centre - reach, centre + reach};
}

}  // namespace biqa
