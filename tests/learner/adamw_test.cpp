// SPDX-License-Identifier: Apache-2.0
// Against torch.optim.AdamW, clip_grad_norm_ and transformers' schedules (fixtures of
// tests/scripts/make_number_fixtures.py, goldens).
#include "learner/adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "support/shared_folder.h"

namespace biqa {
namespace {

nlohmann::json fixture() {
  std::ifstream file(BIQA_SOURCE_DIR "/tests/fixtures/numbers/adamw.json");
  return nlohmann::json::parse(file);
}

double norm_of(const std::vector<double>& gradient) {
  double sum = 0;
  for (const double g : gradient) sum += g * g;
  return std::sqrt(sum);
}
double norm_of(const std::vector<float>& gradient) {
  return std::sqrt(squared_norm(gradient));
}

/// Within `relative` of the largest value: a moment is a sum of steps of both signs, so a small one has lost digits.
template <typename T>
void expect_near(const std::vector<T>& got, const nlohmann::json& want, double relative) {
  const auto expected = want.get<std::vector<double>>();
  ASSERT_EQ(got.size(), expected.size());
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(double{got[i]}, expected[i], relative * largest) << "element " << i;
  }
}

struct Names {
  std::string norm, values, m, v;
};

template <typename T>
void replay(const nlohmann::json& run, const AdamWConfig& config, double clip, const Names& names,
            double relative) {
  auto values = run.at("start").get<std::vector<T>>();
  std::vector<T> m(values.size());
  std::vector<T> v(values.size());
  std::int64_t step = 0;
  for (const auto& row : run.at("steps")) {
    const auto gradient = row.at("gradient").get<std::vector<T>>();
    const double norm = norm_of(gradient);
    EXPECT_NEAR(norm, row.at(names.norm).get<double>(), relative * norm);
    adamw_update<T>(values, gradient, m, v,
                    {config, row.at("lr").get<double>(), clip_scale(norm, clip), ++step});
    expect_near(values, row.at(names.values), relative);
    expect_near(m, row.at(names.m), relative);
    expect_near(v, row.at(names.v), relative);
  }
}

void replay_all(const nlohmann::json& runs, const std::string& decay, const Names& names) {
  for (const auto& run : runs) {
    const auto betas = run.at("betas").get<std::vector<double>>();
    const AdamWConfig config{betas.at(0), betas.at(1), run.at("eps").get<double>(),
                             run.at(decay).get<double>()};
    const auto clip = run.at("clip").get<double>();
    if (run.at("dtype") == "float64") {
      replay<double>(run, config, clip, names, 1e-12);
    } else {
      replay<float>(run, config, clip, names, 1e-6);
    }
  }
}

TEST(AdamW, AgreesWithPytorch) {
  const auto runs = fixture().at("runs");
  ASSERT_EQ(runs.size(), 4U);
  replay_all(runs, "decay", {"norm", "values", "m", "v"});
}

TEST(AdamW, AgreesWithTheGoldens) {
  BIQA_REQUIRE_SHARED(shared);
  std::ifstream file(shared / "golden/numbers/adamw.json");
  const auto runs = nlohmann::json::parse(file).at("runs");
  ASSERT_EQ(runs.size(), 6U);
  replay_all(runs, "weight_decay", {"norm_before_clip", "parameter", "first_moment", "second_moment"});
}

TEST(AdamW, ElementsAreIndependent) {
  // One call over all must give the bits of many calls over ranges, as sharding makes them.
  std::vector<float> gradient(37);
  for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] = std::sin(static_cast<float>(i)) * 0.01F;
  std::vector<float> whole(37, 0.5F);
  std::vector<float> whole_m(37, 0.001F);
  std::vector<float> whole_v(37, 0.0001F);
  std::vector<float> parts = whole;
  std::vector<float> parts_m = whole_m;
  std::vector<float> parts_v = whole_v;
  const AdamWConfig config{0.9, 0.999, 1e-8, 0.01};
  adamw_update<float>(whole, gradient, whole_m, whole_v, {config, 1e-3, 0.7, 3});
  for (std::size_t begin = 0; begin < 37; begin += 5) {
    const std::size_t count = std::min<std::size_t>(5, 37 - begin);
    adamw_update<float>(std::span(parts).subspan(begin, count),
                        std::span<const float>(gradient).subspan(begin, count),
                        std::span(parts_m).subspan(begin, count), std::span(parts_v).subspan(begin, count),
                        {config, 1e-3, 0.7, 3});
  }
  EXPECT_EQ(parts, whole);
  EXPECT_EQ(parts_m, whole_m);
  EXPECT_EQ(parts_v, whole_v);
}

TEST(AdamW, NoGradientMovesNothing) {
  std::vector<float> values{1.5F, -2};
  std::vector<float> m(2);
  std::vector<float> v(2);
  const std::vector<float> gradient(2);
  adamw_update<float>(values, gradient, m, v, {{}, 1e-3, 1, 1});
  EXPECT_EQ(values, (std::vector<float>{1.5F, -2}));
  adamw_update<float>({}, {}, {}, {}, {{}, 1e-3, 1, 1});
}

TEST(AdamW, SchedulesAgreeWithTransformers) {
  const auto rows = fixture().at("schedules");
  ASSERT_EQ(rows.size(), 6U);
  for (const auto& row : rows) {
    const Schedule schedule = row.at("kind") == "linear" ? Schedule::linear : Schedule::cosine;
    const auto rates = row.at("rates").get<std::vector<double>>();
    for (std::size_t step = 0; step < rates.size(); ++step) {
      EXPECT_NEAR(
          learning_rate(schedule, row.at("warmup").get<std::int64_t>(), static_cast<std::int64_t>(step),
                        row.at("total").get<std::int64_t>(), row.at("base").get<double>()),
          rates[step], 1e-15)
          << row.at("kind") << " step " << step;
    }
  }
}

TEST(AdamW, ScheduleEnds) {
  EXPECT_EQ(learning_rate(Schedule::constant, 0, 0, 10, 0.5), 0.5);
  EXPECT_EQ(learning_rate(Schedule::constant, 4, 1, 10, 0.5), 0.125);
  EXPECT_EQ(learning_rate(Schedule::constant, 4, 99, 10, 0.5), 0.5);
  for (const Schedule schedule : {Schedule::linear, Schedule::cosine}) {
    EXPECT_EQ(learning_rate(schedule, 0, 0, 10, 0.5), 0.5);
    EXPECT_NEAR(learning_rate(schedule, 0, 10, 10, 0.5), 0, 1e-17);
    EXPECT_NEAR(learning_rate(schedule, 0, 12, 10, 0.5), 0, 1e-17) << "never below zero";
    EXPECT_GE(learning_rate(schedule, 0, 12, 10, 0.5), 0);
    EXPECT_EQ(learning_rate(schedule, 5, 5, 5, 0.5), 0) << "a warm-up as long as the run";
    EXPECT_EQ(learning_rate(schedule, 0, 0, 0, 0.5), 0);
  }
}

TEST(AdamW, ClipScale) {
  EXPECT_EQ(clip_scale(0, 1), 1);
  EXPECT_EQ(clip_scale(0.5, 1), 1);
  EXPECT_DOUBLE_EQ(clip_scale(4, 1), 1 / 4.000001);
  EXPECT_EQ(clip_scale(1e30, 0), 1) << "0 switches clipping off";
  EXPECT_DOUBLE_EQ(squared_norm(std::vector<float>{3, -4}), 25);
  EXPECT_EQ(squared_norm({}), 0);
  EXPECT_TRUE(std::isfinite(squared_norm(std::vector<float>{1e30F, 1e30F}))) << "summed in double";
}

TEST(AdamWDeathTest, WhatMustNotHappen) {
  EXPECT_DEATH(clip_scale(std::nan(""), 1), "gradient norm");
  EXPECT_DEATH(clip_scale(std::numeric_limits<double>::infinity(), 0), "gradient norm");
  std::vector<float> two(2);
  std::vector<float> one(1);
  EXPECT_DEATH(adamw_update<float>(two, one, two, two, {{}, 1e-3, 1, 1}), "Check failed");
  EXPECT_DEATH(adamw_update<float>(two, two, two, two, {{}, 1e-3, 1, 0}), "Check failed");
}

}  // namespace
}  // namespace biqa
