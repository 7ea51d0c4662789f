// SPDX-License-Identifier: Apache-2.0
#include "comm/rank_processors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include "core/processors.h"
#include "support/denied_call.h"

namespace biqa {
namespace {

using ::testing::ElementsAre;

RankProcessors rank(const std::string& node, std::vector<int> allowed,
                    double granted = std::numeric_limits<double>::infinity()) {
  return {node, std::move(allowed), granted};
}
std::vector<int> shares(std::vector<RankProcessors> ranks) {
  return shares_of_processors(ranks);
}

TEST(Shares, ARankAloneHasWhatItMayUse) {
  EXPECT_THAT(shares({rank("n", {0, 1, 2, 3})}), ElementsAre(4));
  EXPECT_THAT(shares({rank("n", {5})}), ElementsAre(1));
  EXPECT_THAT(shares({rank("n", {})}), ElementsAre(1)) << "a system that does not even tell its number";
}

TEST(Shares, RanksThatMayUseTheSameShareIt) {
  const std::vector<int> all{0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_THAT(shares({rank("n", all), rank("n", all)}), ElementsAre(4, 4));
  EXPECT_THAT(shares({rank("n", all), rank("n", all), rank("n", all)}), ElementsAre(2, 2, 2));
  EXPECT_THAT(shares({rank("n", {0}), rank("n", {0})}), ElementsAre(1, 1));
  EXPECT_THAT(shares({rank("a", all), rank("b", all), rank("b", all)}), ElementsAre(8, 4, 4));
}

TEST(Shares, BoundRanksHaveTheirOwn) {
  EXPECT_THAT(shares({rank("n", {0, 1, 2}), rank("n", {3, 4, 5})}), ElementsAre(3, 3));
  EXPECT_THAT(shares({rank("n", {0, 1}), rank("n", {2, 3, 4, 5}), rank("n", {6})}), ElementsAre(2, 4, 1));
  EXPECT_THAT(shares({rank("n", {0, 1, 2, 3}), rank("n", {2, 3})}), ElementsAre(3, 1))
      << "half of what overlaps";
}

TEST(Shares, ControlGroupsGrantToAllOfANode) {
  const std::vector<int> all{0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_THAT(shares({rank("n", all, 4), rank("n", all, 4)}), ElementsAre(2, 2));
  EXPECT_THAT(shares({rank("n", all, 2.5)}), ElementsAre(2));
  EXPECT_THAT(shares({rank("n", all, 0.5)}), ElementsAre(1));
  EXPECT_THAT(shares({rank("a", all, 4), rank("b", all, 6)}), ElementsAre(4, 6));
}

TEST(Shares, RanksAgreeThroughTheirCommunicator) {
  constexpr int kRanks = 3;
  auto world = make_thread_world(kRanks, Seconds{60});
  std::vector<int> together(kRanks), apart(kRanks);
  std::vector<std::thread> threads;
  threads.reserve(kRanks);
  for (int r = 0; r < kRanks; ++r) {
    threads.emplace_back([&, r] {
      const auto at = static_cast<std::size_t>(r);
      together[at] = share_processors(*world[at], "node");
      apart[at] = share_processors(*world[at], "node " + std::to_string(r));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const int usable = usable_processors();
  for (const int share : together) EXPECT_EQ(share, std::max(1, usable / kRanks));
  for (const int share : apart) EXPECT_EQ(share, usable);
}

TEST(Shares, WithoutAnAffinityMaskARankHasAllProcessors) {
  std::thread([] {
    testing::deny_call(__NR_sched_getaffinity, ENOSYS);
    ASSERT_TRUE(allowed_processors().empty());
    const auto world = make_local();
    EXPECT_EQ(share_processors(*world, "node"), usable_processors());
    const double granted = std::min(granted_processors(), 1e6);
    EXPECT_EQ(usable_processors(),
              std::max(1, static_cast<int>(std::min<double>(std::thread::hardware_concurrency(), granted))));
  }).join();
}

}  // namespace
}  // namespace biqa
