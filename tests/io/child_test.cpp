// SPDX-License-Identifier: Apache-2.0
#include "io/child.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <limits>
#include <stdexcept>

#include "core/error.h"
#include "core/open_device.h"

namespace biqa {
namespace {

using ::testing::Eq;
using ::testing::Optional;

TEST(Child, ReturnsTheAnswer) {
  EXPECT_THAT(answer_of_child([] { return std::string("an answer"); }), Optional(Eq("an answer")));
  // more than a pipe holds
  EXPECT_THAT(answer_of_child([] { return std::string(3'000'000, 'x'); }),
              Optional(Eq(std::string(3'000'000, 'x'))));
}

TEST(Child, ItsDeathIsNoAnswer) {
  for (const int signal : {SIGSEGV, SIGABRT, SIGKILL}) {
    const auto dies = [&] {
      std::raise(signal);
      return std::string("still there");
    };
    EXPECT_EQ(answer_of_child(dies), std::nullopt) << signal;
  }
  EXPECT_EQ(answer_of_child([]() -> std::string { throw std::runtime_error("a fault"); }), std::nullopt);
  EXPECT_EQ(answer_of_child([] { return std::string(); }), std::nullopt);
}

TEST(Child, NoneBesideAnOpenDevice) {
  device_is_open = true;
  std::string message;
  try {
    answer_of_child([] { return std::string("an answer"); });
  } catch (const Error& error) {
    message = error.what();
  }
  device_is_open = false;
  EXPECT_THAT(message, ::testing::HasSubstr("the GPU is already open"));
}

TEST(Child, CrashHandlersAreNotInherited) {
  // Such a handler would make a success of the crash.
  const auto before = std::signal(SIGSEGV, [](int) { std::_Exit(0); });
  const auto answer = answer_of_child([] {
    std::raise(SIGSEGV);
    return std::string("still there");
  });
  std::signal(SIGSEGV, before);
  EXPECT_EQ(answer, std::nullopt);
}

TEST(Child, EndlessWorkIsStopped) {
  const auto loops = [] {
    for (std::atomic<std::uint64_t> i = 0;; ++i) {
      if (i == std::numeric_limits<std::uint64_t>::max()) return std::string("an end");
    }
  };
  EXPECT_EQ(answer_of_child(loops, {.cpu_seconds = 1}), std::nullopt);
}

TEST(Child, MemoryIsLimited) {
  const auto takes = [](std::size_t bytes) {
    return [bytes] {
      const std::string taken(bytes, 'x');
      return taken.substr(0, 1);
    };
  };
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
  EXPECT_EQ(answer_of_child(takes(1024 * kMiB), {.memory = 512 * kMiB}), std::nullopt);
  EXPECT_THAT(answer_of_child(takes(64 * kMiB), {.memory = 512 * kMiB}), Optional(Eq("x")));
  EXPECT_THAT(answer_of_child(takes(1024 * kMiB), {}), Optional(Eq("x")));
}

}  // namespace
}  // namespace biqa
