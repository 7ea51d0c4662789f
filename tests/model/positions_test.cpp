// SPDX-License-Identifier: Apache-2.0
#include "model/positions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using ::testing::HasSubstr;

ModelConfig config() {
  ModelConfig c;
  c.image_token = 9;
  return c;
}
std::vector<std::int64_t> ids(std::initializer_list<std::pair<std::int64_t, int>> runs) {
  std::vector<std::int64_t> all;
  for (const auto& [id, count] : runs) all.insert(all.end(), static_cast<std::size_t>(count), id);
  return all;
}
std::vector<std::int32_t> axis(const std::vector<Position>& positions, std::size_t which) {
  std::vector<std::int32_t> values;
  values.reserve(positions.size());
  for (const Position& p : positions) values.push_back(p[which]);
  return values;
}
using Values = std::vector<std::int32_t>;

TEST(Positions, TextCountsUpInAllThree) {
  std::int32_t next = -1;
  const auto positions = mrope_positions(config(), ids({{1, 4}}), {}, next);
  EXPECT_EQ(positions, (std::vector<Position>{{0, 0, 0}, {1, 1, 1}, {2, 2, 2}, {3, 3, 3}}));
  EXPECT_EQ(next, 4);
}

// The worked example of the design page's golden values.
TEST(Positions, AnImageBetweenTexts) {
  const std::vector<Grid> grids{{1, 4, 6}};
  std::int32_t next = -1;
  const auto positions = mrope_positions(config(), ids({{1, 3}, {9, 6}, {1, 2}}), grids, next);
  EXPECT_EQ(axis(positions, 0), (Values{0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7}));
  EXPECT_EQ(axis(positions, 1), (Values{0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7}));
  EXPECT_EQ(axis(positions, 2), (Values{0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7}));
  EXPECT_EQ(next - static_cast<std::int32_t>(positions.size()), -3);
}

TEST(Positions, TwoImagesTouching) {
  const std::vector<Grid> grids{{1, 4, 2}, {1, 2, 2}};
  std::int32_t next = -1;
  const auto positions = mrope_positions(config(), ids({{9, 2}, {9, 1}, {1, 1}}), grids, next);
  EXPECT_EQ(positions, (std::vector<Position>{{0, 0, 0}, {0, 1, 0}, {2, 2, 2}, {3, 3, 3}}));
  EXPECT_EQ(next, 4);
}

TEST(Positions, RunsThatDoNotFitTheGridsAreRefused) {
  const std::vector<Grid> one{{1, 4, 6}};
  const std::vector<Grid> film{{2, 4, 6}};
  std::int32_t next = 0;
  const auto error = [&](const std::vector<std::int64_t>& tokens, const std::vector<Grid>& grids) {
    return error_of([&] { mrope_positions(config(), tokens, grids, next); });
  };
  EXPECT_THAT(error(ids({{9, 5}, {1, 3}}), one), HasSubstr("too few placeholders: 5 of 6"));
  EXPECT_THAT(error(ids({{1, 1}, {9, 3}}), one), HasSubstr("too few placeholders: 3 of 6"));
  EXPECT_THAT(error(ids({{9, 7}}), one), HasSubstr("more image tokens than its 1 images"));
  EXPECT_THAT(error(ids({{1, 3}}), one), HasSubstr("placeholders for 0 of its 1 images"));
  EXPECT_THAT(error(ids({{9, 12}}), film), HasSubstr("2 frames"));
}

}  // namespace
}  // namespace biqa
