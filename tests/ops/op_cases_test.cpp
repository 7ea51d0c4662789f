// SPDX-License-Identifier: Apache-2.0
// RMSNorm and products of the tested backend on the table of cases, and what the table's checks must notice.
#include "support/op_cases.h"

#include <gmock/gmock.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "support/operation_runs.h"

namespace biqa {
namespace {

using testing::RmsNormCase;
using testing::RunRmsNorm;

class RmsNorm : public ::testing::TestWithParam<RmsNormCase> {};
class Linear : public ::testing::TestWithParam<testing::LinearCase> {};

TEST_P(RmsNorm, AgreesWithTheFormula) {
  testing::check_rms_norm(GetParam(), testing::rms_norm_of(testing::tested_backend()));
}
TEST_P(Linear, AgreesWithTheFormula) {
  testing::check_linear(GetParam(), testing::linear_of(testing::tested_backend()));
}
INSTANTIATE_TEST_SUITE_P(Cases, RmsNorm, ::testing::ValuesIn(testing::rms_norm_cases()));
INSTANTIATE_TEST_SUITE_P(Cases, Linear, ::testing::ValuesIn(testing::linear_cases()));

const RmsNormCase kCase = {4, 40, DType::f32, 1e-6F, 12};

/// The backend's result with one element, which is not small, put through `spoil`.
template <typename Spoil>
RunRmsNorm spoiled(const Spoil& spoil) {
  return [spoil](ConstView x, ConstView weight, float epsilon, View y) {
    testing::rms_norm_of(testing::tested_backend())(x, weight, epsilon, y);
    float* row = y.row<float>(2);
    float* element = std::find_if(row, row + y.columns(), [](float value) { return std::abs(value) > 0.5F; });
    ASSERT_NE(element, row + y.columns());
    *element = spoil(*element);
  };
}

TEST(OpCases, NoticeOneWrongElement) {
  static const RunRmsNorm not_a_number = spoiled([](float) { return std::nanf(""); });
  static const RunRmsNorm infinite = spoiled([](float) { return std::numeric_limits<float>::infinity(); });
  static const RunRmsNorm flipped = spoiled([](float y) { return -y; });
  static const RunRmsNorm right = testing::rms_norm_of(testing::tested_backend());
  static const RunRmsNorm slightly_off = spoiled([](float y) { return y * 1.00001F; });
  EXPECT_NONFATAL_FAILURE(testing::check_rms_norm(kCase, not_a_number), ": nan instead of");
  EXPECT_NONFATAL_FAILURE(testing::check_rms_norm(kCase, infinite), ": inf instead of");
  EXPECT_NONFATAL_FAILURE(testing::check_rms_norm(kCase, flipped), "row 2 column");
  EXPECT_NONFATAL_FAILURE(testing::check_rms_norm(kCase, slightly_off), "row 2 column");
  EXPECT_NONFATAL_FAILURE(testing::check_rms_norm(kCase, right, flipped), "against the other implementation");
}

TEST(OpCases, NoticeAWriteBesideTheOutput) {
  static const RunRmsNorm too_far = [](ConstView x, ConstView weight, float epsilon, View y) {
    testing::rms_norm_of(testing::tested_backend())(x, weight, epsilon, y);
    y.row<float>(3)[40] = 0;
  };
  EXPECT_NONFATAL_FAILURE(testing::check_rms_norm(kCase, too_far), "outside the output");
}

TEST(OpCases, TheBoundFollowsTypesAndLength) {
  EXPECT_EQ(testing::roundoff(DType::f32), std::numeric_limits<float>::epsilon() / 2);
  EXPECT_EQ(testing::roundoff(DType::bf16), 0x1.0p-8);
  EXPECT_EQ(testing::sum_bound(16, 3.0, DType::f32, 0.0), 18 * 0x1.0p-24 * 3.0);
  EXPECT_EQ(testing::sum_bound(6400, 1.0, DType::bf16, -2.0), 642 * 0x1.0p-24 + 2 * 0x1.0p-8);
}

TEST(Operations, AnUnknownBackendIsNamedWithTheKnownOnes) {
  try {
    testing::make_operations_of("abacus", DType::f32, 1);
    FAIL() << "no Error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("backend abacus"));
    EXPECT_THAT(error.what(), ::testing::ContainsRegex("use one of: .*cpu"));
  }
}

}  // namespace
}  // namespace biqa
