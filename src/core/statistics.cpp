// SPDX-License-Identifier: Apache-2.0
#include "core/statistics.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>

namespace biqa {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

bool all_finite(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

/// NaN instead of a figure that no double can hold.
double defined(double value) {
  return std::isfinite(value) ? value : kUndefined;
}

/// x - y, multiplied by `scale`. Two numbers near the limits of a double can differ by more than a double holds, but their
/// halves cannot; the scale is then 0.5, otherwise 1.
struct Differences {
  std::vector<double> values;
  double scale = 1;

  Differences(std::span<const double> x, std::span<const double> y) {
    values.reserve(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) values.push_back(x[i] - y[i]);
    if (all_finite(values)) return;
    scale = 0.5;
    for (std::size_t i = 0; i < x.size(); ++i) values[i] = scale * x[i] - scale * y[i];
  }
};

bool usable(std::span<const double> x, std::span<const double> y) {
  CHECK_EQ(x.size(), y.size());
  return all_finite(x) && all_finite(y);
}

/// Deviations from the mean as multiples of the largest one, so that no square over- or underflows; nullopt
/// if all values are equal.
struct Deviations {
  std::vector<double> values;
  double squares = 0;
};
std::optional<Deviations> deviations(std::span<const double> values) {
  const double centre = mean(values);
  Deviations result;
  result.values.reserve(values.size());
  double largest = 0;
  for (const double scale : {1.0, 0.5}) {  // as in Differences
    result.values.clear();
    largest = 0;
    for (const double v : values) {
      result.values.push_back(scale * v - scale * centre);
      largest = std::max(largest, std::abs(result.values.back()));
    }
    if (std::isfinite(largest)) break;
  }
  if (largest == 0) return std::nullopt;
  for (double& d : result.values) {
    d /= largest;
    result.squares += d * d;
  }
  return result;
}

std::vector<std::size_t> order_of(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  return order;
}

/// Number of pairs inside runs of equal neighbours; `same(i, j)` compares positions.
template <typename Same>
std::int64_t tied_pairs(std::size_t count, const Same& same) {
  std::int64_t pairs = 0;
  std::int64_t run = 0;
  for (std::size_t i = 1; i < count; ++i) {
    run = same(i - 1, i) ? run + 1 : 0;
    pairs += run;
  }
  return pairs;
}

/// Sorts `values` (merge sort, bottom up) and counts the exchanges that a bubble sort would need.
std::int64_t sort_counting_exchanges(std::vector<double>& values) {
  std::vector<double> merged(values.size());
  std::int64_t exchanges = 0;
  for (std::size_t width = 1; width < values.size(); width *= 2) {
    for (std::size_t begin = 0; begin < values.size(); begin += 2 * width) {
      const std::size_t middle = std::min(begin + width, values.size());
      const std::size_t end = std::min(begin + 2 * width, values.size());
      std::size_t left = begin;
      std::size_t right = middle;
      for (std::size_t out = begin; out < end; ++out) {
        if (right == end || (left < middle && values[left] <= values[right])) {
          merged[out] = values[left++];
        } else {
          exchanges += static_cast<std::int64_t>(middle - left);
          merged[out] = values[right++];
        }
      }
    }
    values.swap(merged);
  }
  return exchanges;
}

}  // namespace

double mean(std::span<const double> values) {
  if (values.empty()) return kUndefined;
  double sum = 0;
  const auto count = static_cast<double>(values.size());
  for (const double v : values) sum += v - values[0];
  if (std::isfinite(sum) || !all_finite(values)) return values[0] + sum / count;
  // The sum overflows, but the mean does not: it is divided first.
  sum = 0;
  for (const double v : values) sum += v / count;
  return sum;
}

double root_mean_square(std::span<const double> values, double count) {
  double sum = 0, largest = 0;
  for (const double v : values) {
    sum += v * v;
    largest = std::max(largest, std::abs(v));
  }
  if (std::isfinite(sum) && (sum >= std::numeric_limits<double>::min() || largest == 0))
    return std::sqrt(sum / count);
  if (!std::isfinite(largest)) return kUndefined;
  // The square of 1e200 overflows and that of 1e-200 vanishes, so the values are scaled first.
  sum = 0;
  for (const double v : values) sum += (v / largest) * (v / largest);
  return defined(largest * std::sqrt(sum / count));
}

double standard_deviation(std::span<const double> values) {
  if (values.size() < 2) return kUndefined;
  const std::vector<double> centre(values.size(), mean(values));
  const Differences differences(values, centre);
  return defined(root_mean_square(differences.values, static_cast<double>(values.size() - 1)) /
                 differences.scale);
}

double pearson(std::span<const double> x, std::span<const double> y) {
  if (!usable(x, y) || x.size() < 2) return kUndefined;
  const auto dx = deviations(x);
  const auto dy = deviations(y);
  if (!dx || !dy) return kUndefined;
  const double product = std::inner_product(dx->values.begin(), dx->values.end(), dy->values.begin(), 0.0);
  return std::clamp(product / std::sqrt(dx->squares) / std::sqrt(dy->squares), -1.0, 1.0);
}

std::vector<double> average_ranks(std::span<const double> values) {
  const std::vector<std::size_t> order = order_of(values);
  std::vector<double> ranks(values.size());
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double rank = static_cast<double>(begin + 1 + end) / 2;
    for (; begin < end; ++begin) ranks[order[begin]] = rank;
  }
  return ranks;
}

double spearman(std::span<const double> x, std::span<const double> y) {
  if (!usable(x, y)) return kUndefined;
  return pearson(average_ranks(x), average_ranks(y));
}

double kendall_tau_b(std::span<const double> x, std::span<const double> y) {
  if (!usable(x, y) || x.size() < 2) return kUndefined;
  const std::size_t count = x.size();
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return x[a] < x[b] || (x[a] == x[b] && y[a] < y[b]); });
  const auto same_x = [&](std::size_t i, std::size_t j) { return x[order[i]] == x[order[j]]; };
  const std::int64_t x_ties = tied_pairs(count, same_x);
  const std::int64_t both_ties = tied_pairs(
      count, [&](std::size_t i, std::size_t j) { return same_x(i, j) && y[order[i]] == y[order[j]]; });
  std::vector<double> sorted_y(count);
  for (std::size_t i = 0; i < count; ++i) sorted_y[i] = y[order[i]];
  const std::int64_t discordant = sort_counting_exchanges(sorted_y);
  const std::int64_t y_ties =
      tied_pairs(count, [&](std::size_t i, std::size_t j) { return sorted_y[i] == sorted_y[j]; });
  const std::int64_t pairs = static_cast<std::int64_t>(count) * (static_cast<std::int64_t>(count) - 1) / 2;
  if (pairs == x_ties || pairs == y_ties) return kUndefined;
  const auto difference = static_cast<double>(pairs - x_ties - y_ties + both_ties - 2 * discordant);
  const double tau = difference / std::sqrt(static_cast<double>(pairs - x_ties)) /
                     std::sqrt(static_cast<double>(pairs - y_ties));
  return std::clamp(tau, -1.0, 1.0);
}

double rmse(std::span<const double> x, std::span<const double> y) {
  if (!usable(x, y) || x.empty()) return kUndefined;
  const Differences differences(x, y);
  return defined(root_mean_square(differences.values, static_cast<double>(x.size())) / differences.scale);
}

double mean_absolute_error(std::span<const double> x, std::span<const double> y) {
  if (!usable(x, y) || x.empty()) return kUndefined;
  // Divided before the sum, which could overflow.
  double sum = 0;
  const Differences differences(x, y);
  for (const double d : differences.values) sum += std::abs(d) / static_cast<double>(x.size());
  return defined(sum / differences.scale);
}

double sign_test(std::int64_t wins, std::int64_t losses) {
  const std::int64_t few = std::min(wins, losses);
  if (wins == losses) return 1;
  const auto count = static_cast<double>(wins + losses);
  // The binomial probabilities of few, few - 1, …, 0, each from the one before.
  double term = std::exp(std::lgamma(count + 1) - std::lgamma(static_cast<double>(few) + 1) -
                         std::lgamma(count - static_cast<double>(few) + 1) - count * std::log(2.0));
  double sum = 0;
  for (std::int64_t k = few; k >= 0 && term > 0; --k) {
    sum += term;
    term *= static_cast<double>(k) / (count - static_cast<double>(k) + 1);
  }
  return std::min(1.0, 2 * sum);
}

Interval percentile_interval(std::vector<double> values) {
  values.erase(std::remove_if(values.begin(), values.end(), [](double v) { return !std::isfinite(v); }),
               values.end());
  if (values.empty()) return {kUndefined, kUndefined};
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double share) {
    const double position = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return std::lerp(values[below], values[above], position - static_cast<double>(below));
  };
  return {quantile(0.025), quantile(0.975)};
}

void draw_rows(const RandomStream& stream, std::size_t resample, std::span<std::size_t> rows) {
  const std::size_t count = rows.size();
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t word = stream.word(resample * count + i);
    rows[i] = static_cast<std::size_t>((__extension__ static_cast<unsigned __int128>(word) * count) >> 64);
  }
}

Interval bootstrap_interval(std::span<const double> x, std::span<const double> y,
                            const PairStatistic& statistic, const RandomStream& stream,
                            std::size_t resamples) {
  CHECK_EQ(x.size(), y.size());
  std::vector<std::size_t> rows(x.size());
  std::vector<double> drawn_x(x.size()), drawn_y(x.size()), values;
  for (std::size_t resample = 0; resample < resamples; ++resample) {
    draw_rows(stream, resample, rows);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      drawn_x[i] = x[rows[i]];
      drawn_y[i] = y[rows[i]];
    }
    values.push_back(statistic(drawn_x, drawn_y));
  }
  return percentile_interval(std::move(values));
}

DrawnPairs::DrawnPairs(std::span<const double> x, std::span<const double> y)
    : x_(x.begin(), x.end()), y_(y.begin(), y.end()), x_places_(places_of(x)), y_places_(places_of(y)) {
  CHECK(usable(x, y));
}

DrawnPairs::Places DrawnPairs::places_of(std::span<const double> values) {
  Places places;
  places.place.resize(values.size());
  const std::vector<std::size_t> order = order_of(values);
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || values[order[i]] != values[order[i - 1]]) ++places.distinct;
    places.place[order[i]] = places.distinct - 1;
  }
  return places;
}

double DrawnPairs::pearson(std::span<const std::size_t> pairs) {
  first_.clear();
  second_.clear();
  for (const std::size_t pair : pairs) {
    first_.push_back(x_[pair]);
    second_.push_back(y_[pair]);
  }
  return biqa::pearson(first_, second_);
}

double DrawnPairs::spearman(std::span<const std::size_t> pairs) {
  ranks_of(x_places_, pairs, first_);
  ranks_of(y_places_, pairs, second_);
  return biqa::pearson(first_, second_);
}

void DrawnPairs::ranks_of(const Places& places, std::span<const std::size_t> pairs,
                          std::vector<double>& ranks) {
  counts_.assign(places.distinct, 0);
  for (const std::size_t pair : pairs) ++counts_[places.place[pair]];
  rank_.resize(places.distinct);
  std::size_t below = 0;
  for (std::size_t place = 0; place < places.distinct; ++place) {
    rank_[place] = static_cast<double>(2 * below + counts_[place] + 1) / 2;
    below += counts_[place];
  }
  ranks.clear();
  for (const std::size_t pair : pairs) ranks.push_back(rank_[places.place[pair]]);
}

}  // namespace biqa
