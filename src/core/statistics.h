// SPDX-License-Identifier: Apache-2.0
// Statistics of agreement between ratings and human scores. Pairs are two spans of equal length (CHECK). NaN means
// "undefined": fewer than two pairs, all x or all y equal, a value that is not finite, or a result above the largest
// double. No sum or square overflows on the way to a result that a double can hold.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/random.h"

namespace biqa {

/// Arithmetic mean, exact if all values are equal; NaN without values.
double mean(std::span<const double> values);
/// Sample standard deviation (n - 1), exactly 0 if all values are equal; NaN for fewer than two values.
double standard_deviation(std::span<const double> values);

/// Root of (the sum of squares divided by `count`); 0 if all values are 0.
double root_mean_square(std::span<const double> values, double count);

/// Pearson's product-moment correlation (PLCC).
double pearson(std::span<const double> x, std::span<const double> y);
/// Spearman's rank correlation with average ranks for ties (SRCC).
double spearman(std::span<const double> x, std::span<const double> y);
/// Kendall's tau-b (KRCC), O(n log n) after Knight, "A computer method for calculating Kendall's tau" (1966).
double kendall_tau_b(std::span<const double> x, std::span<const double> y);
/// Root of the mean squared difference. Also defined for one pair and if all x or all y are equal.
double rmse(std::span<const double> x, std::span<const double> y);
/// Mean of the absolute differences. Defined where rmse() is.
double mean_absolute_error(std::span<const double> x, std::span<const double> y);
/// Two-sided sign test: the probability that `wins` and `losses` differ at least this much if both are equally likely.
/// The result is 1 if both are 0.
double sign_test(std::int64_t wins, std::int64_t losses);
/// Ranks from 1; tied values share the average of their ranks. No value may be NaN.
std::vector<double> average_ranks(std::span<const double> values);

/// low + rise·s(x) + slope·x with s(x) = 1/(1 + exp(-(x - centre)/width)), width > 0. With four parameters, slope is 0
/// and the curve rises from low to low + rise. With five, this is VQEG's curve in another parametrisation:
/// b1(½ - 1/(1 + exp(b2(x - b3)))) + b4·x + b5.
struct Logistic {
  double low = 0, rise = 0, centre = 0, width = 1, slope = 0;
  double operator()(double x) const;
};
enum class LogisticKind { four, five };
/// The least-squares curve from x to y, by MINPACK's Levenberg-Marquardt method from the usual start. The start has the
/// centre mean x. With four parameters, it rises from min y to max y, and its width is (standard deviation of x) / 4.
/// With five, it rises by max y - min y around mean y, its width is the standard deviation of x, and its slope is 0.
/// The result is a local minimum, as in other programs that use this start. All parameters are NaN with fewer pairs
/// than parameters, if all x or all y are equal, or if an absolute value is above 1e100, where products of values could
/// overflow.
Logistic fit_logistic(std::span<const double> x, std::span<const double> y, LogisticKind kind);
/// Pearson's correlation of y with the fitted curve of x.
double fitted_pearson(std::span<const double> x, std::span<const double> y, LogisticKind kind);

struct Interval {
  double low = 0, high = 0;
};
/// 95 % percentile interval of values: 2.5 % and 97.5 %, linear between order statistics. Values that are not finite
/// are left out; NaN if none is left.
Interval percentile_interval(std::vector<double> values);
/// Draws `rows.size()` rows out of 0 … rows.size()-1 with replacement. `resample` is the number of the draw, from 0.
void draw_rows(const RandomStream& stream, std::size_t resample, std::span<std::size_t> rows);

/// The quantile of Student's t distribution: the value below which `share` of the distribution lies. NaN unless
/// 0 < share < 1 and degrees >= 1.
double student_t_quantile(double share, double degrees);
/// mean ± t·s/√n: the 95 % interval of the mean by Student's t; NaN for fewer than two values.
Interval student_t_interval(std::span<const double> values);

using PairStatistic = std::function<double(std::span<const double>, std::span<const double>)>;
/// percentile_interval() of `statistic` over `resamples` draws of all pairs with replacement.
Interval bootstrap_interval(std::span<const double> x, std::span<const double> y,
                            const PairStatistic& statistic, const RandomStream& stream,
                            std::size_t resamples = 1000);

/// Correlations of many draws from the same pairs. The values are sorted once, so a draw takes linear time. All values
/// must be finite (CHECK).
class DrawnPairs {
 public:
  DrawnPairs(std::span<const double> x, std::span<const double> y);
  std::size_t size() const { return x_.size(); }
  /// pearson() and spearman() of the pairs with these numbers; a number may occur several times.
  double pearson(std::span<const std::size_t> pairs);
  double spearman(std::span<const std::size_t> pairs);

 private:
  /// The place of each value among the distinct values in ascending order, from 0.
  struct Places {
    std::vector<std::size_t> place;
    std::size_t distinct = 0;
  };
  static Places places_of(std::span<const double> values);
  void ranks_of(const Places& places, std::span<const std::size_t> pairs, std::vector<double>& ranks);

  std::vector<double> x_, y_;
  Places x_places_, y_places_;
  std::vector<std::size_t> counts_;
  std::vector<double> first_, second_, rank_;
};

}  // namespace biqa
