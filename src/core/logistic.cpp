// SPDX-License-Identifier: Apache-2.0
#include <cminpack.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/statistics.h"

namespace biqa {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t kMost = 5;
/// b1, b2, … of the literature. Four: b2 + (b1 - b2) s((x - b3) / |b4|). Five: b1 (s(b2 (x - b3)) - 1/2) + b4 x + b5.
using Parameters = std::array<double, kMost>;

double sigmoid(double z) {
  return 1 / (1 + std::exp(-z));
}

double value(LogisticKind kind, const double* b, double x) {
  if (kind == LogisticKind::four) return b[1] + (b[0] - b[1]) * sigmoid((x - b[2]) / std::abs(b[3]));
  return b[0] * (sigmoid(b[1] * (x - b[2])) - 0.5) + b[3] * x + b[4];
}

Parameters gradient(LogisticKind kind, const double* b, double x) {
  const double distance = x - b[2];
  if (kind == LogisticKind::four) {
    const double width = std::abs(b[3]);
    const double s = sigmoid(distance / width);
    const double bend = (b[0] - b[1]) * s * (1 - s) / width;
    return {s, 1 - s, -bend, -bend * distance / b[3], 0};
  }
  const double s = sigmoid(b[1] * distance);
  const double bend = b[0] * s * (1 - s);
  return {s - 0.5, bend * distance, -bend * b[1], x, 1};
}

struct Problem {
  std::span<const double> x, y;
  LogisticKind kind;
};

/// Residuals (flag 1) or their derivatives (flag 2, column by column), as MINPACK calls it.
int evaluate(void* data, int rows, int columns, const double* b, double* residuals, double* jacobian,
             int /*leading*/, int flag) {
  const auto& problem = *static_cast<const Problem*>(data);
  for (std::size_t i = 0; i < problem.x.size(); ++i) {
    if (flag == 1) {
      residuals[i] = value(problem.kind, b, problem.x[i]) - problem.y[i];
      continue;
    }
    const Parameters slopes = gradient(problem.kind, b, problem.x[i]);
    for (int column = 0; column < columns; ++column)
      jacobian[static_cast<std::size_t>(column) * static_cast<std::size_t>(rows) + i] =
          slopes[static_cast<std::size_t>(column)];
  }
  return 0;
}

/// Descends from `start` until nothing changes or the limit of evaluations, which flat valleys reach.
void minimise(Problem problem, std::size_t parameters, Parameters& b) {
  constexpr double kTolerance = 1e-15;
  constexpr int kMostEvaluations = 2000;
  constexpr double kFirstStep = 100;  // MINPACK's usual bound
  const auto rows = static_cast<int>(problem.x.size());
  const auto columns = static_cast<int>(parameters);
  std::vector<double> residuals(problem.x.size()), jacobian(problem.x.size() * parameters),
      turned(problem.x.size());
  std::array<double, kMost> scale{}, reflected{}, first{}, second{}, third{};
  std::array<int, kMost> order{};
  int evaluations = 0, derivatives = 0;
  lmder(evaluate, &problem, rows, columns, b.data(), residuals.data(), jacobian.data(), rows, kTolerance,
        kTolerance, kTolerance, kMostEvaluations, scale.data(), 1, kFirstStep, 0, &evaluations, &derivatives,
        order.data(), reflected.data(), first.data(), second.data(), third.data(), turned.data());
}

}  // namespace

double Logistic::operator()(double x) const {
  return low + rise * sigmoid((x - centre) / width) + slope * x;
}

Logistic fit_logistic(std::span<const double> x, std::span<const double> y, LogisticKind kind) {
  const Logistic undefined{kUndefined, kUndefined, kUndefined, kUndefined, kUndefined};
  const std::size_t parameters = kind == LogisticKind::five ? 5 : 4;
  constexpr double kLargest = 1e100;
  const auto fits = [](double v) { return std::abs(v) <= kLargest; };  // false for NaN
  if (x.size() < parameters || !std::all_of(x.begin(), x.end(), fits) ||
      !std::all_of(y.begin(), y.end(), fits) || std::isnan(pearson(x, y)))
    return undefined;
  const auto [least, most] = std::minmax_element(y.begin(), y.end());
  const double deviation = standard_deviation(x);
  Parameters b = kind == LogisticKind::four ? Parameters{*most, *least, mean(x), deviation / 4, 0}
                                            : Parameters{*most - *least, 1 / deviation, mean(x), 0, mean(y)};
  minimise({x, y, kind}, parameters, b);
  if (kind == LogisticKind::four) return {b[1], b[0] - b[1], b[2], std::abs(b[3]), 0};
  // s(-z) = 1 - s(z) turns a negative steepness into a negative rise.
  const double rise = std::copysign(b[0], b[0] * b[1]);
  return {b[4] - rise / 2, rise, b[2], 1 / std::abs(b[1]), b[3]};
}

double fitted_pearson(std::span<const double> x, std::span<const double> y, LogisticKind kind) {
  const Logistic curve = fit_logistic(x, y, kind);
  std::vector<double> mapped;
  mapped.reserve(x.size());
  for (const double v : x) mapped.push_back(curve(v));
  return pearson(mapped, y);
}

}  // namespace biqa
