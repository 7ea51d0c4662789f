// SPDX-License-Identifier: Apache-2.0
#include "training/picture_check.h"

#include <gtest/gtest.h>

namespace biqa {
namespace {

TEST(PictureCheck, EndsEarlyWhenAsked) {
  std::vector<Sample> rows(3);
  for (Sample& row : rows) row.image = BIQA_SOURCE_DIR "/assets/tiny/sample_cat.png";
  const std::vector<const std::vector<Sample>*> sets{&rows};
  auto world = make_local();
  const Seconds patience{100};
  EXPECT_EQ(check_pictures(*world, sets, 2, patience, [] { return false; }).checked, 3U);
  EXPECT_EQ(check_pictures(*world, sets, 2, patience, [] { return true; }).checked, 0U);
  int left = 1;
  EXPECT_EQ(check_pictures(*world, sets, 1, patience, [&left] { return left-- <= 0; }).checked, 1U);
  EXPECT_EQ(check_pictures(*world, sets, 2, Seconds{-1}, [] { return false; }).checked, 0U);
}

}  // namespace
}  // namespace biqa
