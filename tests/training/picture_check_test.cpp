// SPDX-License-Identifier: Apache-2.0
#include "training/picture_check.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "support/no_more_threads.h"

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

TEST(PictureCheck, OneThreadChecksAllWhereThereAreNoMore) {
  std::vector<Sample> rows(3);
  for (Sample& row : rows) row.image = BIQA_SOURCE_DIR "/assets/tiny/sample_cat.png";
  const std::vector<const std::vector<Sample>*> sets{&rows};
  auto world = make_local();
  const testing::NoMoreThreads none;
  EXPECT_EQ(check_pictures(*world, sets, 4, Seconds{100}, [] { return false; }).checked, 3U);
}

TEST(PictureCheck, RanksThatAreSlowAreHelped) {
  std::vector<Sample> rows(24);
  for (Sample& row : rows) row.image = BIQA_SOURCE_DIR "/assets/tiny/sample_cat.png";
  rows[21].image = "/no/such/picture.png";
  const std::vector<const std::vector<Sample>*> sets{&rows};
  const Seconds deadline{1};
  auto world = make_thread_world(2, deadline);
  // The second rank takes 0.2 s for a picture: 2.4 s for half of them, which the first one would wait for.
  const auto check = [&](std::size_t rank) {
    return check_pictures(*world[rank], sets, 1, Seconds{100}, [rank] {
      if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(200));
      return false;
    });
  };
  PictureCheck second;
  std::thread other([&] { second = check(1); });
  PictureCheck first = check(0);
  other.join();
  for (const PictureCheck* found : {&first, &second}) {
    EXPECT_EQ(found->pictures, 24U);
    EXPECT_EQ(found->checked, 24U);
    ASSERT_EQ(found->damaged.size(), 1U);
    EXPECT_EQ(found->damaged[0].row, 21U);
  }
}

}  // namespace
}  // namespace biqa
