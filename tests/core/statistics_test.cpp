// SPDX-License-Identifier: Apache-2.0
// Against SciPy (fixtures of tests/scripts/make_number_fixtures.py) and on what has no answer.
#include "core/statistics.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/shared_folder.h"

namespace biqa {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

nlohmann::json fixture() {
  std::ifstream file(BIQA_SOURCE_DIR "/tests/fixtures/numbers/statistics.json");
  return nlohmann::json::parse(file);
}

std::vector<double> numbers(const nlohmann::json& array) {
  return array.get<std::vector<double>>();
}

void expect_agreement(double got, const nlohmann::json& expected, const std::string& what) {
  if (expected.is_null()) {
    EXPECT_TRUE(std::isnan(got)) << what << " is " << got << " where it is not defined";
  } else {
    const auto want = expected.get<double>();
    EXPECT_NEAR(got, want, 1e-10 * std::max(1.0, std::abs(want))) << what;
  }
}

TEST(Statistics, AgreesWithScipy) {
  const nlohmann::json rows = fixture().at("pairs");
  ASSERT_GE(rows.size(), 30U);
  for (const auto& row : rows) {
    const auto x = numbers(row.at("x"));
    const auto y = numbers(row.at("y"));
    const auto what = fmt::format("{}, {} pairs: ", row.at("kind").get<std::string>(), x.size());
    expect_agreement(pearson(x, y), row.at("pearson"), what + "pearson");
    expect_agreement(spearman(x, y), row.at("spearman"), what + "spearman");
    expect_agreement(kendall_tau_b(x, y), row.at("kendall"), what + "kendall");
    expect_agreement(rmse(x, y), row.at("rmse"), what + "rmse");
    expect_agreement(mean(x), row.at("mean"), what + "mean");
    expect_agreement(standard_deviation(x), row.at("deviation"), what + "deviation");
    EXPECT_EQ(average_ranks(x), numbers(row.at("ranks"))) << what;
  }
}

TEST(Statistics, AgreesWithTheGoldens) {
  BIQA_REQUIRE_SHARED(shared);
  std::ifstream file(shared / "golden/numbers/correlation.json");
  const auto golden = nlohmann::json::parse(file);
  for (const auto& row : golden.at("vectors")) {
    const auto x = numbers(row.at("x"));
    const auto y = numbers(row.at("y"));
    const auto what = row.at("kind").get<std::string>();
    expect_agreement(pearson(x, y), row.at("pearson"), what);
    expect_agreement(spearman(x, y), row.at("spearman"), what);
    expect_agreement(kendall_tau_b(x, y), row.at("kendall_b"), what);
    expect_agreement(rmse(x, y), row.at("rmse"), what);
  }
  for (const auto& row : golden.at("logistic4")) {
    const auto x = numbers(row.at("x"));
    const auto y = numbers(row.at("y"));
    const auto parameters = numbers(row.at("parameters"));
    const Logistic reference{parameters[1], parameters[0] - parameters[1], parameters[2], parameters[3], 0};
    const Logistic curve = fit_logistic(x, y, LogisticKind::four);
    for (const double v : x) EXPECT_NEAR(curve(v), reference(v), 1e-6);
    EXPECT_NEAR(fitted_pearson(x, y, LogisticKind::four), row.at("pearson_after").get<double>(), 1e-10);
  }
}

// Literals of scipy.stats.t.ppf.
TEST(Statistics, QuantilesOfStudentsT) {
  EXPECT_NEAR(student_t_quantile(.975, 1), 12.706204736, 1e-8);
  EXPECT_NEAR(student_t_quantile(.975, 2), 4.302652730, 1e-8);
  EXPECT_NEAR(student_t_quantile(.975, 4), 2.776445105, 1e-8);
  EXPECT_NEAR(student_t_quantile(.975, 9), 2.262157163, 1e-8);
  EXPECT_NEAR(student_t_quantile(.025, 9), -2.262157163, 1e-8);
  EXPECT_NEAR(student_t_quantile(.5, 3), 0, 1e-12);
  // One degree: tan(pi (share - ½)). Two: (2 share - 1) / sqrt(2 share (1 - share)).
  for (const double share : {.5001, .6, .75, .9, .999, 1 - 1e-9}) {
    const double one = std::tan(M_PI * (share - .5)),
                 two = (2 * share - 1) / std::sqrt(2 * share * (1 - share));
    EXPECT_NEAR(student_t_quantile(share, 1), one, 1e-6 * one) << share;
    EXPECT_NEAR(student_t_quantile(share, 2), two, 1e-6 * two) << share;
  }
  EXPECT_NEAR(student_t_quantile(.975, 1e6), 1.95996635682, 1e-8);
  for (const double share : {0., 1., -1., kNan})
    EXPECT_TRUE(std::isnan(student_t_quantile(share, 3))) << share;
  EXPECT_TRUE(std::isnan(student_t_quantile(.975, 0)));
}

TEST(Statistics, IntervalsByStudentsT) {
  const std::vector<double> values{1, 2, 3, 4, 5};  // deviation √2.5
  const Interval interval = student_t_interval(values);
  EXPECT_NEAR(interval.low, 3 - 2.776445105 * std::sqrt(.5), 1e-8);
  EXPECT_NEAR(interval.high, 3 + 2.776445105 * std::sqrt(.5), 1e-8);
  EXPECT_TRUE(std::isnan(student_t_interval(std::vector<double>{1}).low));
}

TEST(Statistics, NotDefined) {
  const std::vector<double> none;
  const std::vector<double> one{3};
  const std::vector<double> rising{1, 2, 3, 4, 5, 6};
  const std::vector<double> constant(6, 0.1);
  for (const auto& [x, y] : {std::pair(none, none), std::pair(one, one), std::pair(rising, constant),
                             std::pair(constant, rising), std::pair(constant, constant)}) {
    EXPECT_TRUE(std::isnan(pearson(x, y)));
    EXPECT_TRUE(std::isnan(spearman(x, y)));
    EXPECT_TRUE(std::isnan(kendall_tau_b(x, y)));
    EXPECT_TRUE(std::isnan(fitted_pearson(x, y, LogisticKind::four)));
    EXPECT_TRUE(std::isnan(fitted_pearson(x, y, LogisticKind::five)));
  }
  EXPECT_TRUE(std::isnan(mean(none)));
  EXPECT_TRUE(std::isnan(standard_deviation(one)));
  EXPECT_TRUE(std::isnan(rmse(none, none)));
  EXPECT_EQ(rmse(one, one), 0);
  // An answer may be a number of three hundred digits; its square has no double.
  const std::vector<double> huge{1e300, 3}, usual{2, 3};
  EXPECT_DOUBLE_EQ(rmse(huge, usual), 1e300 / std::sqrt(2.0));
  EXPECT_TRUE(std::isfinite(pearson(huge, usual)));
  const std::vector<double> wide{1.7e308, -1.7e308, 1.7e308, 1.7e308}, steps{4, 0, 4, 4};
  EXPECT_DOUBLE_EQ(mean(wide), 0.85e308);
  EXPECT_DOUBLE_EQ(standard_deviation(wide), 1.7e308);
  EXPECT_DOUBLE_EQ(pearson(wide, steps), 1);
  EXPECT_DOUBLE_EQ(rmse(wide, steps), 1.7e308);
  EXPECT_DOUBLE_EQ(mean_absolute_error(wide, steps), 1.7e308);
  const std::vector<double> opposite{-1.7e308, 1.7e308, -1.7e308, -1.7e308};
  EXPECT_TRUE(std::isnan(rmse(wide, opposite)));
  EXPECT_TRUE(std::isnan(mean_absolute_error(wide, opposite)));
  const Interval interval = percentile_interval({-1.7e308, 1.7e308});
  EXPECT_DOUBLE_EQ(interval.low, -0.95 * 1.7e308);
  EXPECT_DOUBLE_EQ(standard_deviation(std::vector<double>{1e-200, 3e-200}), std::sqrt(2.0) * 1e-200);
  EXPECT_EQ(standard_deviation(constant), 0) << "0.1 six times has no spread, not even by rounding";
  for (const double bad : {kNan, kInfinity, -kInfinity}) {
    for (const std::size_t place : {0U, 3U}) {
      std::vector<double> broken = rising;
      broken[place] = bad;
      EXPECT_TRUE(std::isnan(pearson(broken, rising)));
      EXPECT_TRUE(std::isnan(spearman(rising, broken)));
      EXPECT_TRUE(std::isnan(kendall_tau_b(broken, rising)));
      EXPECT_TRUE(std::isnan(rmse(broken, rising)));
      EXPECT_TRUE(std::isnan(fitted_pearson(broken, rising, LogisticKind::four)));
    }
  }
}

TEST(Statistics, KendallIsQuickAndHasNoOverflow) {
  // 100,000 pairs: n² would take minutes and 32 bits would not hold the number of pairs.
  std::vector<double> x(100000);
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<double>(i);
    y[i] = -static_cast<double>(i);
  }
  EXPECT_EQ(kendall_tau_b(x, x), 1);
  EXPECT_EQ(kendall_tau_b(x, y), -1);
}

TEST(Statistics, LogisticFitsAgreeWithScipy) {
  const nlohmann::json rows = fixture().at("fits");
  ASSERT_EQ(rows.size(), 4U);
  for (const auto& row : rows) {
    const auto x = numbers(row.at("x"));
    const auto y = numbers(row.at("y"));
    const auto expected = numbers(row.at("curve"));
    const LogisticKind kind = row.at("kind") == "four" ? LogisticKind::four : LogisticKind::five;
    const Logistic curve = fit_logistic(x, y, kind);
    EXPECT_GT(curve.width, 0);
    if (kind == LogisticKind::four) {
      EXPECT_EQ(curve.slope, 0);
    }
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(curve(x[i]), expected[i], 1e-6);
    EXPECT_NEAR(fitted_pearson(x, y, kind), row.at("pearson").get<double>(), 1e-10);
  }
}

TEST(Statistics, LogisticFitOfHardData) {
  // A straight line has no finite best curve, a step no finite steepness: the fit still has to end and to be close.
  std::vector<double> x;
  std::vector<double> line;
  std::vector<double> step;
  for (int i = 0; i < 40; ++i) {
    x.push_back(1 + 0.1 * i);
    line.push_back(7 - 2 * x.back());
    step.push_back(i < 20 ? 1 : 2);
  }
  for (const LogisticKind kind : {LogisticKind::four, LogisticKind::five}) {
    EXPECT_GT(fitted_pearson(x, line, kind), 0.9999);
    EXPECT_GT(fitted_pearson(x, step, kind), 0.99);
  }
  const std::vector<double> few{1, 2, 3, 5};
  EXPECT_FALSE(std::isnan(fitted_pearson(few, few, LogisticKind::four)));
  EXPECT_TRUE(std::isnan(fit_logistic(few, few, LogisticKind::five).low))
      << "five parameters from four pairs";
}

TEST(Statistics, BootstrapAgreesWithNumpy) {
  const nlohmann::json rows = fixture().at("bootstraps");
  ASSERT_EQ(rows.size(), 2U);
  for (const auto& row : rows) {
    const auto name = row.at("name").get<std::vector<std::uint64_t>>();
    const Interval got =
        bootstrap_interval(numbers(row.at("x")), numbers(row.at("y")), pearson,
                           RandomStream{name.at(0), name.at(1)}, row.at("resamples").get<std::size_t>());
    EXPECT_NEAR(got.low, row.at("low").get<double>(), 1e-12);
    EXPECT_NEAR(got.high, row.at("high").get<double>(), 1e-12);
  }
}

TEST(Statistics, BootstrapOfTheUndefined) {
  const std::vector<double> constant(5, 2.0);
  const Interval nothing = bootstrap_interval(constant, constant, pearson, RandomStream{1}, 20);
  EXPECT_TRUE(std::isnan(nothing.low) && std::isnan(nothing.high));
  // Of three pairs every ninth resample is one pair three times; those have no correlation and must not count.
  const std::vector<double> x{1, 2, 3};
  const Interval perfect = bootstrap_interval(x, x, pearson, RandomStream{1}, 200);
  EXPECT_NEAR(perfect.low, 1, 1e-12);
  EXPECT_NEAR(perfect.high, 1, 1e-12);
}

}  // namespace
}  // namespace biqa
