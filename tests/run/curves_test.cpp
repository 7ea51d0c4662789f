// SPDX-License-Identifier: Apache-2.0
#include "run/curves.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <regex>
#include <vector>

namespace biqa {
namespace {

using testing::HasSubstr;
using testing::Not;

MetricsFile run_of(int steps) {
  MetricsFile metrics;
  for (int i = 1; i <= steps; ++i) {
    StepMetrics step;
    step.step = i;
    step.reward_mean = 1 + 0.01 * i;
    step.reward_means.at(reward_column("prediction")) = 0.2;
    step.kl = 0.001 * i;
    metrics.steps.push_back(step);
  }
  for (const std::int64_t at : {0, steps}) {
    for (const char* decoding : {"greedy", "sampled"}) {
      EvalMetrics eval;
      eval.step = at;
      eval.set = "a<b>&c";
      eval.condition = "image";
      eval.decoding = decoding;
      eval.plcc = at == 0 ? 0.4 : 0.7;
      metrics.evaluations.push_back(eval);
    }
  }
  return metrics;
}

// Every element that is opened is closed, in order.
void expect_well_formed(const std::string& svg) {
  std::vector<std::string> open;
  for (std::size_t at = svg.find('<'); at != std::string::npos; at = svg.find('<', at + 1)) {
    const std::size_t end = svg.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const bool closing = svg[at + 1] == '/';
    const std::size_t name = at + (closing ? 2 : 1);
    const std::string tag = svg.substr(name, svg.find_first_of(" />", name) - name);
    if (closing) {
      ASSERT_FALSE(open.empty());
      ASSERT_EQ(open.back(), tag);
      open.pop_back();
    } else if (svg[end - 1] != '/') {
      open.push_back(tag);
    }
  }
  EXPECT_TRUE(open.empty());
}

TEST(Curves, PanelsForWhatWasMeasured) {
  const std::string svg = learning_curves_svg(run_of(50), "a run & <its> title");
  expect_well_formed(svg);
  EXPECT_THAT(svg, HasSubstr("a run &amp; &lt;its&gt; title"));
  EXPECT_THAT(svg, HasSubstr("a&lt;b&gt;&amp;c"));
  for (const char* title :
       {"Total reward", "Prediction reward", "KL to the starting policy", "Ratings with the image"}) {
    EXPECT_THAT(svg, HasSubstr(title));
  }
  for (const char* title : {"Format reward", "Ratings from the caption alone", "nan", "inf"}) {
    EXPECT_THAT(svg, Not(HasSubstr(title)));
  }
  EXPECT_THAT(svg, HasSubstr("running mean of 5 steps"));
  EXPECT_THAT(svg, HasSubstr(">0.400<"));
  EXPECT_THAT(svg, HasSubstr(">0.700<"));
}

// Values of both decodings that are alike stand under each other, not on each other.
TEST(Curves, LabelsDoNotCover) {
  const std::string svg = learning_curves_svg(run_of(50), "t");
  const std::regex label(R"re(class="value" x="([0-9.]+)" y="([0-9.]+)")re");
  std::vector<std::pair<double, double>> places;
  for (auto at = std::sregex_iterator(svg.begin(), svg.end(), label); at != std::sregex_iterator(); ++at) {
    places.emplace_back(std::stod((*at)[1]), std::stod((*at)[2]));
  }
  ASSERT_EQ(places.size(), 4U);
  for (std::size_t i = 0; i < places.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_GE(std::abs(places[i].first - places[j].first) + std::abs(places[i].second - places[j].second),
                11.9);
    }
  }
}

TEST(Curves, MeansOverSets) {
  MetricsFile metrics = run_of(1);
  EvalMetrics other = metrics.evaluations.front();
  other.set = "second";
  other.plcc = 0.6;
  metrics.evaluations.push_back(other);
  const std::string svg = learning_curves_svg(metrics, "t");
  EXPECT_THAT(svg, HasSubstr("mean of 2 sets"));
  EXPECT_THAT(svg, HasSubstr(">0.500<"));
}

TEST(Curves, DegenerateRunsStillDraw) {
  for (const int steps : {0, 1, 2, 5000}) {
    MetricsFile metrics = run_of(steps);
    if (steps == 2) metrics.evaluations.clear();
    if (steps == 1) metrics.steps[0].reward_mean = NAN;
    const std::string svg = learning_curves_svg(metrics, "t");
    expect_well_formed(svg);
    EXPECT_THAT(svg, Not(HasSubstr("nan")));
    EXPECT_THAT(svg, Not(HasSubstr("inf")));
  }
  EXPECT_THAT(learning_curves_svg({}, "t"), HasSubstr("No step"));
  MetricsFile constant;
  constant.steps.resize(3);
  for (StepMetrics& step : constant.steps) step.reward_mean = 1e-300;
  expect_well_formed(learning_curves_svg(constant, "t"));
}

}  // namespace
}  // namespace biqa
