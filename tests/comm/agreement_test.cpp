// SPDX-License-Identifier: Apache-2.0
// Checks that ranks agree, with threads as ranks.
#include "comm/agreement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"

namespace biqa {
namespace {

/// What each rank's `check` throws; the ranks that wait for the end of the job say so once the first has left.
std::vector<std::string> messages(int ranks, const std::function<void(Communicator&)>& check) {
  auto world = make_thread_world(ranks, Seconds{1});
  std::vector<std::string> told(world.size());
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < world.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        check(*world[rank]);
      } catch (const Error& error) {
        told[rank] = error.what();
      }
      world[rank].reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return told;
}

TEST(Agreement, TwoRanksOnOneGpu) {
  const std::vector<std::string> devices{"0000:1b:00.0", "", "0000:3d:00.0", "0000:1b:00.0"};
  const auto told = messages(4, [&](Communicator& world) {
    check_own_devices(world, "node7", devices[static_cast<std::size_t>(world.rank())]);
  });
  EXPECT_THAT(told[0],
              ::testing::StartsWith(
                  "ranks 0 and 3 use the same GPU (0000:1b:00.0 of node node7): start as many ranks"));
}

TEST(Agreement, SameAddressesOnOtherNodesAndRanksWithoutADevice) {
  const auto told = messages(4, [&](Communicator& world) {
    check_own_devices(world, world.rank() % 2 == 0 ? "a" : "b", world.rank() < 2 ? "0000:1b:00.0" : "");
  });
  EXPECT_THAT(told, ::testing::Each(""));
}

// Two containers of one machine have node names of their own and may give its GPUs other addresses.
TEST(Agreement, OneGpuInTwoContainers) {
  const auto told = messages(3, [&](Communicator& world) {
    check_own_devices(world, "container" + std::to_string(world.rank()),
                      world.rank() == 0 ? "GPU-1" : "GPU-7");
  });
  EXPECT_THAT(told[0], ::testing::StartsWith("ranks 1 and 2 use the same GPU (GPU-7): start as many ranks"));
}

TEST(Agreement, DevicesOfOtherTypes) {
  const std::string small = "GPU S (sm_80, 9 multiprocessors), cuBLASLt 120400";
  for (const std::string& other :
       {std::string("GPU S (sm_80, 9 multiprocessors), cuBLASLt 130000"), std::string()}) {
    const auto told = messages(
        3, [&](Communicator& world) { check_same_devices(world, world.rank() == 2 ? other : small); });
    EXPECT_EQ(told[0],
              "ranks 0 and 2 compute on different devices: rank 0 on " + small + ", rank 2 on " +
                  (other.empty() ? "the CPU" : other) +
                  ". Their log-probabilities would differ; use nodes with the same GPUs and the same "
                  "CUDA libraries");
  }
  for (const std::string& alike : {small, std::string()})
    EXPECT_THAT(messages(3, [&](Communicator& world) { check_same_devices(world, alike); }),
                ::testing::Each(""));
}

TEST(Agreement, OtherDigests) {
  const auto told = messages(
      3, [](Communicator& world) { check_agreement(world, "other manifests", world.rank() == 2 ? 8 : 7); });
  EXPECT_THAT(told[0], ::testing::StartsWith("rank 2 has other manifests than rank 0"));
}

}  // namespace
}  // namespace biqa
