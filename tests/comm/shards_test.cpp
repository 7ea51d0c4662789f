// SPDX-License-Identifier: Apache-2.0
#include "comm/shards.h"

#include <gtest/gtest.h>

namespace biqa {
namespace {

TEST(Shards, DivideAVector) {
  const Shards shards({3, 0, 5});
  EXPECT_EQ(shards.ranks(), 3);
  EXPECT_EQ(shards.total(), 8);
  EXPECT_EQ(shards.largest(), 5);
  EXPECT_EQ(shards.begin(0), 0);
  EXPECT_EQ(shards.begin(1), 3);
  EXPECT_EQ(shards.begin(2), 3);
  EXPECT_EQ(shards.size(2), 5);
  EXPECT_FALSE(shards.are_even());
  EXPECT_TRUE(Shards::even(4, 7).are_even());
  EXPECT_EQ(Shards::even(4, 7).begin(3), 21);
  EXPECT_TRUE(Shards::even(2, 0).are_even());
}

TEST(ShardsDeathTest, RefusesTensorsOfOtherSizes) {
  const Shards shards({3, 1});
  const std::vector<float> values(8);
  const ConstView whole(values.data(), 1, 4);
  shards.check(1, whole, whole.column_range(0, 1));
  EXPECT_DEATH(shards.check(0, whole, whole.column_range(0, 1)), "rank 0");
  EXPECT_DEATH(shards.check(1, ConstView(values.data(), 1, 5), whole.column_range(0, 1)), "total");
  EXPECT_DEATH(Shards({-1}), "size");
}

}  // namespace
}  // namespace biqa
