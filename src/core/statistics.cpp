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
  for (const double v : values) {
    result.values.push_back(v - centre);
    largest = std::max(largest, std::abs(v - centre));
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

// ---- logistic fit ----

constexpr std::size_t kMost = 5;
using Vector = std::array<double, kMost>;
using Matrix = std::array<Vector, kMost>;

/// Solves a·s = b for the leading n rows (a symmetric, positive definite; Cholesky); false if it is not.
bool solve(Matrix a, Vector b, std::size_t n, Vector& s) {
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = a[i][j];
      for (std::size_t k = 0; k < j; ++k) sum -= a[i][k] * a[j][k];
      if (i == j) {
        if (!(sum > 0)) return false;
        a[i][i] = std::sqrt(sum);
      } else {
        a[i][j] = sum / a[j][j];
      }
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < i; ++k) b[i] -= a[i][k] * b[k];
    b[i] /= a[i][i];
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) b[i] -= a[k][i] * b[k];
    b[i] /= a[i][i];
  }
  s = b;
  return true;
}

double sigmoid(double z) {
  return 1 / (1 + std::exp(-z));
}

/// The curve on standardised data, parameters (low, rise, centre, log width, slope).
class StandardFit {
 public:
  StandardFit(std::vector<double> x, std::vector<double> y, LogisticKind kind)
      : x_(std::move(x)), y_(std::move(y)), count_(kind == LogisticKind::five ? 5 : 4) {}

  Vector best() const {
    Vector parameters = best_of_grid();
    double squares = sum_of_squares(parameters);
    double damping = 1e-3;
    for (int iteration = 0; iteration < 500 && damping < 1e14; ++iteration) {
      Matrix normal{};
      Vector right{};
      normal_equations(parameters, normal, right);
      for (std::size_t i = 0; i < count_; ++i) normal[i][i] += damping * (normal[i][i] + 1e-30);
      Vector step{};
      Vector next = parameters;
      double largest = 0;
      const bool solved = solve(normal, right, count_, step);
      for (std::size_t i = 0; i < count_; ++i) {
        next[i] += step[i];
        largest = std::max(largest, std::abs(step[i]) / (1 + std::abs(parameters[i])));
      }
      const double after = solved ? sum_of_squares(next) : kUndefined;
      // Close to the minimum, rounding hides changes of the sum, but steps still improve the parameters.
      if (after <= squares * (1 + 1e-13)) {
        parameters = next;
        squares = std::min(squares, after);
        damping = std::max(damping / 10, 1e-15);
        if (largest < 1e-14) break;
      } else {
        damping *= 10;
      }
    }
    return parameters;
  }

 private:
  double value(const Vector& p, double x) const {
    return p[0] + p[1] * sigmoid((x - p[2]) / std::exp(p[3])) + p[4] * x;
  }

  double sum_of_squares(const Vector& p) const {
    double sum = 0;
    for (std::size_t i = 0; i < x_.size(); ++i) {
      const double difference = y_[i] - value(p, x_[i]);
      sum += difference * difference;
    }
    return sum;
  }

  /// JᵀJ and Jᵀ(y - curve).
  void normal_equations(const Vector& p, Matrix& normal, Vector& right) const {
    const double width = std::exp(p[3]);
    for (std::size_t i = 0; i < x_.size(); ++i) {
      const double z = (x_[i] - p[2]) / width;
      const double s = sigmoid(z);
      const double bend = p[1] * s * (1 - s);
      const Vector gradient{1, s, -bend / width, -bend * z, x_[i]};
      accumulate(gradient, y_[i] - value(p, x_[i]), count_, normal, right);
    }
  }

  static void accumulate(const Vector& row, double target, std::size_t n, Matrix& normal, Vector& right) {
    for (std::size_t a = 0; a < n; ++a) {
      for (std::size_t b = 0; b <= a; ++b) normal[a][b] += row[a] * row[b];
      right[a] += row[a] * target;
    }
  }

  /// Given centre and width the curve is linear in the rest, so the grid has two dimensions only.
  Vector best_of_grid() const {
    const auto [least, most] = std::minmax_element(x_.begin(), x_.end());
    Vector best{0, 0, 0, 0, 0};
    double best_squares = std::numeric_limits<double>::infinity();
    for (int i = 0; i <= 24; ++i) {
      const double centre = *least + (*most - *least) * i / 24;
      for (int j = 0; j < 12; ++j) {
        Vector parameters{0, 0, centre, -4 + 0.5 * j, 0};
        if (!solve_linear(parameters)) continue;
        const double squares = sum_of_squares(parameters);
        if (squares < best_squares) {
          best_squares = squares;
          best = parameters;
        }
      }
    }
    return best;
  }

  bool solve_linear(Vector& p) const {
    Matrix normal{};
    Vector right{};
    const std::size_t columns = count_ - 2;
    const double width = std::exp(p[3]);
    for (std::size_t i = 0; i < x_.size(); ++i) {
      accumulate({1, sigmoid((x_[i] - p[2]) / width), x_[i], 0, 0}, y_[i], columns, normal, right);
    }
    Vector s{};
    if (!solve(normal, right, columns, s)) return false;
    p[0] = s[0];
    p[1] = s[1];
    p[4] = columns == 3 ? s[2] : 0;
    return true;
  }

  std::vector<double> x_, y_;
  std::size_t count_;
};

}  // namespace

double mean(std::span<const double> values) {
  if (values.empty()) return kUndefined;
  double sum = 0;
  for (const double v : values) sum += v - values[0];
  return values[0] + sum / static_cast<double>(values.size());
}

double standard_deviation(std::span<const double> values) {
  if (values.size() < 2) return kUndefined;
  const double centre = mean(values);
  double sum = 0;
  for (const double v : values) sum += (v - centre) * (v - centre);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
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
  double sum = 0, largest = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sum += (x[i] - y[i]) * (x[i] - y[i]);
    largest = std::max(largest, std::abs(x[i] - y[i]));
  }
  const auto count = static_cast<double>(x.size());
  if (std::isfinite(sum)) return std::sqrt(sum / count);
  // The square of a difference of 1e200 overflows, so the differences are scaled first.
  sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow((x[i] - y[i]) / largest, 2);
  return largest * std::sqrt(sum / count);
}

double Logistic::operator()(double x) const {
  return low + rise * sigmoid((x - centre) / width) + slope * x;
}

Logistic fit_logistic(std::span<const double> x, std::span<const double> y, LogisticKind kind) {
  const std::size_t parameters = kind == LogisticKind::five ? 5 : 4;
  if (!usable(x, y) || x.size() < parameters || !deviations(x) || !deviations(y)) {
    return {kUndefined, kUndefined, kUndefined, kUndefined, kUndefined};
  }
  const double x_mean = mean(x);
  const double y_mean = mean(y);
  const double x_scale = standard_deviation(x);
  const double y_scale = standard_deviation(y);
  std::vector<double> standard_x;
  std::vector<double> standard_y;
  for (const double v : x) standard_x.push_back((v - x_mean) / x_scale);
  for (const double v : y) standard_y.push_back((v - y_mean) / y_scale);
  const Vector p = StandardFit(std::move(standard_x), std::move(standard_y), kind).best();
  Logistic curve;
  curve.slope = y_scale * p[4] / x_scale;
  curve.low = y_mean + y_scale * p[0] - curve.slope * x_mean;
  curve.rise = y_scale * p[1];
  curve.centre = x_mean + x_scale * p[2];
  curve.width = x_scale * std::exp(p[3]);
  return curve;
}

double fitted_pearson(std::span<const double> x, std::span<const double> y, LogisticKind kind) {
  const Logistic curve = fit_logistic(x, y, kind);
  std::vector<double> mapped;
  mapped.reserve(x.size());
  for (const double v : x) mapped.push_back(curve(v));
  return pearson(mapped, y);
}

Interval bootstrap_interval(std::span<const double> x, std::span<const double> y,
                            const PairStatistic& statistic, const RandomStream& stream,
                            std::size_t resamples) {
  CHECK_EQ(x.size(), y.size());
  const std::size_t count = x.size();
  std::vector<double> drawn_x(count);
  std::vector<double> drawn_y(count);
  std::vector<double> values;
  for (std::size_t resample = 0; resample < resamples; ++resample) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t word = stream.word(resample * count + i);
      const auto pick =
          static_cast<std::size_t>((__extension__ static_cast<unsigned __int128>(word) * count) >> 64);
      drawn_x[i] = x[pick];
      drawn_y[i] = y[pick];
    }
    const double value = statistic(drawn_x, drawn_y);
    if (!std::isnan(value)) values.push_back(value);
  }
  if (values.empty()) return {kUndefined, kUndefined};
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double share) {
    const double position = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (position - static_cast<double>(below)) * (values[above] - values[below]);
  };
  return {quantile(0.025), quantile(0.975)};
}

}  // namespace biqa
