// SPDX-License-Identifier: Apache-2.0
#include "training/work_share.h"

#include <gtest/gtest.h>

#include <mutex>
#include <numeric>
#include <thread>

namespace biqa {
namespace {

/// Actors of a world of threads roll `steps` steps out; the one called `slow` takes a hundred times as long.
/// Returns, by step, how many groups each actor had.
std::map<std::int64_t, std::vector<int>> roll_out(int actors, std::size_t rows, std::int64_t steps,
                                                  int slow) {
  auto world = make_thread_world(actors + 1, Seconds(60));
  std::vector<int> ranks(static_cast<std::size_t>(actors));
  std::iota(ranks.begin(), ranks.end(), 1);
  std::mutex mutex;
  std::map<std::int64_t, std::vector<int>> counts;
  std::map<std::int64_t, std::multiset<std::size_t>> seen;
  const auto rows_of = [rows](std::int64_t step) {
    std::vector<std::size_t> all(rows);
    std::iota(all.begin(), all.end(), static_cast<std::size_t>(step) * 1000);
    return all;
  };
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(actors));
  for (const int rank : ranks) {
    threads.emplace_back([&, rank] {
      WorkShare share(*world[static_cast<std::size_t>(rank)], ranks, rows_of);
      for (std::int64_t step = 1; step <= steps; ++step) {
        share.begin(step);
        std::vector<std::size_t> under_way;
        for (int tokens = 1;; ++tokens) {  // the list is looked after between two tokens

          for (const std::size_t row : share.next(under_way.empty())) {
            under_way.push_back(row);
            const std::lock_guard lock(mutex);
            seen[step].insert(row);
            counts[step].resize(static_cast<std::size_t>(actors));
            ++counts[step][static_cast<std::size_t>(rank - 1)];
          }
          if (under_way.empty()) break;
          std::this_thread::sleep_for(std::chrono::microseconds(200));
          if (rank == slow && tokens % 100 != 0) continue;
          share.finished(under_way.front(), 10);
          under_way.erase(under_way.begin());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::int64_t step = 1; step <= steps; ++step) {
    const std::vector<std::size_t> all = rows_of(step);
    EXPECT_EQ(seen[step], std::multiset<std::size_t>(all.begin(), all.end())) << "step " << step;
  }
  return counts;
}

TEST(WorkShare, EveryGroupIsRolledOutOnce) {
  roll_out(1, 5, 3, -1);
  roll_out(2, 1, 3, -1);
  roll_out(3, 7, 20, -1);
  roll_out(5, 3, 20, -1);  // more actors than groups
}

TEST(WorkShare, TheKeeperMayBeManyStepsBehind) {
  for (const std::size_t rows : {1, 2, 5}) roll_out(3, rows, 100, 1);
}

TEST(WorkShare, ASlowActorGetsFewer) {
  for (const int slow : {1, 3}) {  // the first one keeps the list
    const auto counts = roll_out(3, 24, 2, slow);
    for (const auto& [step, groups] : counts) {
      EXPECT_LT(groups[static_cast<std::size_t>(slow - 1)], 8) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace biqa
