// SPDX-License-Identifier: Apache-2.0
#include "run/axis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace biqa {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> labels(const Axis& axis) {
  std::vector<std::string> texts;
  for (int i = 0; i <= axis.count(); ++i) texts.push_back(axis.text(axis.tick(i)));
  return texts;
}

TEST(Axis, TicksAreMultiplesOfOneTwoOrFive) {
  EXPECT_THAT(labels(Axis::around(0.1, 0.93, 5, 1e-9)),
              ElementsAre("0.0", "0.2", "0.4", "0.6", "0.8", "1.0"));
  EXPECT_THAT(labels(Axis::around(-3, 11, 4, 1e-9)), ElementsAre("-5", "0", "5", "10", "15"));
  EXPECT_THAT(labels(Axis::around(0.001, 0.0034, 4, 1e-9)), ElementsAre("0.001", "0.002", "0.003", "0.004"));
}

TEST(Axis, ContainsTheValuesWhateverTheirSize) {
  for (const double scale : {1e-12, 1e-3, 1.0, 7e4, 1e15, 1e299}) {
    for (const auto& [least, most] : {std::pair(0.3, 0.7), {-2.0, 9.0}, {5.0, 5.0}, {-1.0, -0.99}}) {
      const Axis axis = Axis::around(least * scale, most * scale, 4, 1e-15);
      EXPECT_LE(axis.low, least * scale * (1 - 1e-9 * (least > 0 ? -1 : 1)));
      EXPECT_GE(axis.high, most * scale * (1 - 1e-9 * (most > 0 ? 1 : -1)));
      EXPECT_GE(axis.count(), 1);
      EXPECT_LE(axis.count(), 7);
    }
  }
}

TEST(Axis, EqualValuesHaveAnAxis) {
  const Axis axis = Axis::around(2, 2, 4, 0.01);
  EXPECT_LT(axis.low, 2);
  EXPECT_GT(axis.high, 2);
}

TEST(Axis, StepsAreNotFinerThanAsked) {
  EXPECT_DOUBLE_EQ(Axis::around(0.5, 0.500001, 4, 0.01).step, 0.01);
}

TEST(Axis, LargeNumbersHaveASuffixAndSmallOnesAnExponent) {
  EXPECT_THAT(labels(Axis::around(0, 30000, 3, 1)), ElementsAre("0", "10k", "20k", "30k"));
  EXPECT_THAT(labels(Axis::around(0, 3e9, 3, 1)), ElementsAre("0", "1G", "2G", "3G"));
  EXPECT_THAT(labels(Axis::around(0, 2e-6, 2, 1e-9)), ElementsAre("0", "1e-06", "2e-06"));
}

}  // namespace
}  // namespace biqa
