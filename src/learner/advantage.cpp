// SPDX-License-Identifier: Apache-2.0
#include "learner/advantage.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/statistics.h"

namespace biqa {
namespace {

constexpr double kEpsilon = 1e-4;
constexpr double kNoVariance = 1e-8;

/// Mean and sample standard deviation of the values that are not NaN; deviation 0 of fewer than two.
struct Moments {
  double mean = std::numeric_limits<double>::quiet_NaN(), deviation = 0;
};

Moments moments(std::span<const double> values) {
  std::vector<double> present;
  std::copy_if(values.begin(), values.end(), std::back_inserter(present),
               [](double v) { return !std::isnan(v); });
  return {mean(present), present.size() < 2 ? 0 : standard_deviation(present)};
}

}  // namespace

Advantages compute_advantages(std::span<const double> rewards, std::span<const double> weights,
                              std::size_t group_size, const AdvantageConfig& config) {
  const std::size_t columns = weights.size();
  CHECK_GT(columns, 0U);
  CHECK_GT(group_size, 0U);
  CHECK_EQ(rewards.size() % (columns * group_size), 0U);
  const std::size_t count = rewards.size() / columns;
  const std::size_t groups = count / group_size;
  const bool sum_first = config.kind == AdvantageKind::sum_then_normalise;

  const auto weighted_sums = [&](std::span<const double> table) {
    std::vector<double> sums(count, 0.0);
    for (std::size_t i = 0; i < count; ++i) {
      bool any = false;
      for (std::size_t f = 0; f < columns; ++f) {
        if (std::isnan(table[i * columns + f])) continue;
        sums[i] += weights[f] * table[i * columns + f];
        any = true;
      }
      if (!any) sums[i] = std::numeric_limits<double>::quiet_NaN();
    }
    return sums;
  };

  Advantages result;
  result.totals = weighted_sums(rewards);
  result.zero_variance.assign(groups, true);
  if (sum_first) {
    const double batch_deviation = moments(result.totals).deviation;
    result.values = result.totals;
    for (std::size_t g = 0; g < groups; ++g) {
      const std::span<double> members = std::span(result.values).subspan(g * group_size, group_size);
      const Moments own = moments(members);
      result.zero_variance[g] = own.deviation <= kNoVariance;
      const double divisor = config.scale == AdvantageScale::group   ? own.deviation + kEpsilon
                             : config.scale == AdvantageScale::batch ? batch_deviation + kEpsilon
                                                                     : 1;
      for (double& value : members) value = (value - own.mean) / divisor;
    }
  } else {
    std::vector<double> normalised(rewards.begin(), rewards.end());
    std::vector<double> column(group_size);
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t f = 0; f < columns; ++f) {
        double* first = normalised.data() + g * group_size * columns + f;
        for (std::size_t i = 0; i < group_size; ++i) column[i] = first[i * columns];
        const Moments own = moments(column);
        if (own.deviation > kNoVariance) result.zero_variance[g] = false;
        for (std::size_t i = 0; i < group_size; ++i) {
          first[i * columns] = (column[i] - own.mean) / (own.deviation + kEpsilon);
        }
      }
    }
    result.values = weighted_sums(normalised);
    const Moments batch = moments(result.values);
    for (double& value : result.values) value = (value - batch.mean) / (batch.deviation + kEpsilon);
  }
  for (double& value : result.values) {
    if (std::isnan(value)) value = 0;
  }
  if (groups > 0) {
    const auto without = std::count(result.zero_variance.begin(), result.zero_variance.end(), true);
    result.zero_variance_fraction = static_cast<double>(without) / static_cast<double>(groups);
  }
  return result;
}

}  // namespace biqa
