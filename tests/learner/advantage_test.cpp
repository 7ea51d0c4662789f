// SPDX-License-Identifier: Apache-2.0
// Against PyTorch (fixtures of tests/scripts/make_number_fixtures.py) and TRL's own statements (goldens).
#include "learner/advantage.h"

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

double number(const nlohmann::json& value) {
  return value.is_null() ? kNan : value.get<double>();
}

std::vector<double> flat(const nlohmann::json& rows) {
  std::vector<double> values;
  for (const auto& row : rows) {
    for (const auto& value : row) values.push_back(number(value));
  }
  return values;
}

AdvantageScale scale_of(const std::string& name) {
  return name == "group"   ? AdvantageScale::group
         : name == "batch" ? AdvantageScale::batch
                           : AdvantageScale::none;
}

void expect_near(const std::vector<double>& got, const nlohmann::json& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double expected = number(want.at(i));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(got[i]));
    } else {
      EXPECT_NEAR(got[i], expected, tolerance) << "trajectory " << i;
    }
  }
}

TEST(Advantage, AgreesWithPytorch) {
  std::ifstream file(BIQA_SOURCE_DIR "/tests/fixtures/numbers/advantage.json");
  const nlohmann::json rows = nlohmann::json::parse(file).at("cases");
  ASSERT_EQ(rows.size(), 16U);
  for (const auto& row : rows) {
    const AdvantageConfig config{
        row.at("kind") == "sum" ? AdvantageKind::sum_then_normalise : AdvantageKind::normalise_then_sum,
        scale_of(row.at("scale").get<std::string>())};
    const auto got = compute_advantages(flat(row.at("rewards")), row.at("weights").get<std::vector<double>>(),
                                        row.at("group_size").get<std::size_t>(), config);
    expect_near(got.totals, row.at("totals"), 1e-12);
    expect_near(got.values, row.at("values"), 1e-10);
    const auto zero = row.at("zero_variance").get<std::vector<bool>>();
    EXPECT_EQ(got.zero_variance, zero);
    double share = 0;
    for (const bool z : zero) share += z ? 1.0 / static_cast<double>(zero.size()) : 0;
    EXPECT_NEAR(got.zero_variance_fraction, share, 1e-12);
  }
}

TEST(Advantage, AgreesWithTheGoldens) {
  BIQA_REQUIRE_SHARED(shared);
  std::ifstream file(shared / "golden/numbers/grpo.json");
  const nlohmann::json rows = nlohmann::json::parse(file).at("advantages");
  ASSERT_EQ(rows.size(), 16U);
  for (const auto& row : rows) {
    const AdvantageConfig config{row.at("aggregation") == "sum_then_normalize"
                                     ? AdvantageKind::sum_then_normalise
                                     : AdvantageKind::normalise_then_sum,
                                 scale_of(row.at("scale").get<std::string>())};
    const auto got = compute_advantages(flat(row.at("rewards")), row.at("weights").get<std::vector<double>>(),
                                        row.at("group_size").get<std::size_t>(), config);
    expect_near(got.totals, row.at("total"), 1e-12);
    expect_near(got.values, row.at("advantages"), 1e-10);
  }
}

TEST(Advantage, ByHand) {
  // Rewards 1, 2, 3 of one group: mean 2, sample deviation 1.
  const auto got = compute_advantages(std::vector<double>{1, 2, 3}, std::vector<double>{1}, 3, {});
  EXPECT_DOUBLE_EQ(got.values[0], -1 / 1.0001);
  EXPECT_EQ(got.values[1], 0);
  EXPECT_DOUBLE_EQ(got.values[2], 1 / 1.0001);
}

TEST(Advantage, EqualRewardsGiveExactlyNothing) {
  for (const AdvantageKind kind : {AdvantageKind::sum_then_normalise, AdvantageKind::normalise_then_sum}) {
    const auto got =
        compute_advantages(std::vector<double>(14, 0.1), std::vector<double>{1, 0.3}, 7, {kind, {}});
    for (const double value : got.values)
      EXPECT_EQ(value, 0) << "0.1 seven times has no spread, not even by rounding";
    EXPECT_EQ(got.zero_variance_fraction, 1);
  }
}

TEST(Advantage, GdpoIgnoresAConstantRewardExactly) {
  const std::vector<double> alone{0.3, 0.9, 0.4, 0.7, 0.1, 0.2};
  std::vector<double> beside;
  for (const double r : alone) beside.insert(beside.end(), {r, 0.1});
  const AdvantageConfig gdpo{AdvantageKind::normalise_then_sum, AdvantageScale::group};
  EXPECT_EQ(compute_advantages(alone, std::vector<double>{1.0}, 3, gdpo).values,
            compute_advantages(beside, std::vector<double>{1.0, 5.0}, 3, gdpo).values);
}

TEST(Advantage, NothingToCompare) {
  EXPECT_TRUE(compute_advantages({}, std::vector<double>{1}, 4, {}).values.empty());
  EXPECT_EQ(compute_advantages({}, std::vector<double>{1}, 4, {}).zero_variance_fraction, 0);
  const auto single = compute_advantages(std::vector<double>{0.7}, std::vector<double>{1}, 1, {});
  EXPECT_EQ(single.values, std::vector<double>{0});
  const auto silent = compute_advantages(std::vector<double>{kNan, kNan}, std::vector<double>{1}, 2, {});
  EXPECT_EQ(silent.values, (std::vector<double>{0, 0}));
  EXPECT_EQ(silent.zero_variance_fraction, 1);
}

TEST(AdvantageDeathTest, ShapesMustFit) {
  EXPECT_DEATH(compute_advantages(std::vector<double>{1, 2, 3}, std::vector<double>{1}, 2, {}),
               "Check failed");
  EXPECT_DEATH(compute_advantages(std::vector<double>{1, 2}, {}, 2, {}), "Check failed");
}

}  // namespace
}  // namespace biqa
