// SPDX-License-Identifier: Apache-2.0
#include "core/threads.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <new>
#include <thread>
#include <vector>

#include "core/error.h"
#include "support/no_more_threads.h"

namespace biqa {
namespace {

TEST(Threads, EveryPartIsDoneOnce) {
  for (const std::int64_t count : {0, 1, 2, 17}) {
    std::vector<int> done(static_cast<std::size_t>(count), 0);
    on_threads(count, [&](std::int64_t index) { ++done[static_cast<std::size_t>(index)]; });
    EXPECT_EQ(done, std::vector<int>(static_cast<std::size_t>(count), 1));
  }
}

TEST(Threads, AnExceptionOfAnyPartComesOut) {
  for (std::int64_t bad = 0; bad < 4; ++bad) {
    EXPECT_THROW(on_threads(4,
                            [&](std::int64_t index) {
                              if (index == bad) throw std::bad_alloc();
                            }),
                 std::bad_alloc);
  }
  EXPECT_THROW(on_threads(8, [](std::int64_t index) { fail("part {}", index); }), Error);
}

TEST(Threads, WithoutMoreThreadsThisOneDoesAll) {
  const testing::NoMoreThreads none;
  std::vector<std::thread::id> by(5);
  on_threads(5,
             [&](std::int64_t index) { by[static_cast<std::size_t>(index)] = std::this_thread::get_id(); });
  EXPECT_EQ(by, std::vector<std::thread::id>(5, std::this_thread::get_id()));
  EXPECT_THROW(on_threads(3, [](std::int64_t index) { fail("part {}", index); }), Error);
}

TEST(Threads, OnlyTheFirstFailureIsKept) {
  FirstFailure failure;
  int runs = 0;
  failure.guard([&] { ++runs; });
  failure.rethrow();
  failure.guard([&] { fail("first"); });
  failure.guard([&] { ++runs; });
  failure.guard([&] { fail("second"); });
  EXPECT_EQ(runs, 1);
  try {
    failure.rethrow();
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "first");
  }
}

TEST(ThreadsDeathTest, ABackgroundThreadThatFailsEndsTheProgramWithAMessage) {
  EXPECT_EXIT(run_or_exit("the watch", [] { throw std::bad_alloc(); }), ::testing::ExitedWithCode(1),
              "error: the watch: std::bad_alloc; start the job again");
}

}  // namespace
}  // namespace biqa
