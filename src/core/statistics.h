// SPDX-License-Identifier: Apache-2.0
// Statistics of agreement between ratings and human scores. Pairs are two spans of equal length (CHECK). NaN means
// "undefined": fewer than two pairs, all x or all y equal, or a value that is not finite.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "core/random.h"

namespace biqa {

/// Arithmetic mean, exact if all values are equal; NaN without values.
double mean(std::span<const double> values);
/// Sample standard deviation (n - 1), exactly 0 if all values are equal; NaN for fewer than two values.
double standard_deviation(std::span<const double> values);

/// Pearson's product-moment correlation (PLCC).
double pearson(std::span<const double> x, std::span<const double> y);
/// Spearman's rank correlation with average ranks for ties (SRCC).
double spearman(std::span<const double> x, std::span<const double> y);
/// Kendall's tau-b (KRCC), O(n log n) after Knight, "A computer method for calculating Kendall's tau" (1966).
double kendall_tau_b(std::span<const double> x, std::span<const double> y);
/// Root of the mean squared difference. Also defined for one pair and if all x or all y are equal.
double rmse(std::span<const double> x, std::span<const double> y);
/// Ranks from 1; tied values share the average of their ranks. No value may be NaN.
std::vector<double> average_ranks(std::span<const double> values);

/// low + rise·s(x) + slope·x with s(x) = 1/(1 + exp(-(x - centre)/width)), width > 0. With four parameters, slope is 0
/// and the curve rises from low to low + rise. With five, it is VQEG's b1(½ - 1/(1 + exp(b2(x - b3)))) + b4·x + b5
/// under other names.
struct Logistic {
  double low = 0, rise = 0, centre = 0, width = 1, slope = 0;
  double operator()(double x) const;
};
enum class LogisticKind { four, five };
/// The least-squares curve from x to y: a grid over centre and width, then Levenberg-Marquardt. All parameters are NaN
/// with fewer pairs than parameters, if all x or all y are equal, or with a value that is not finite.
Logistic fit_logistic(std::span<const double> x, std::span<const double> y, LogisticKind kind);
/// Pearson's correlation of y with the fitted curve of x.
double fitted_pearson(std::span<const double> x, std::span<const double> y, LogisticKind kind);

struct Interval {
  double low = 0, high = 0;
};
using PairStatistic = std::function<double(std::span<const double>, std::span<const double>)>;
/// 95 % percentile interval (2.5 % and 97.5 %, linear between order statistics) of `statistic` over `resamples` draws
/// of all pairs with replacement. Draws whose statistic is NaN are left out; NaN if none is left.
Interval bootstrap_interval(std::span<const double> x, std::span<const double> y,
                            const PairStatistic& statistic, const RandomStream& stream,
                            std::size_t resamples = 1000);

}  // namespace biqa
