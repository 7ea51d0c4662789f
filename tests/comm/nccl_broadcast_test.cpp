// SPDX-License-Identifier: Apache-2.0
// The broadcast's checks, with a world of threads in NCCL's place, held against the communicator of the CPU.
#include <gtest/gtest.h>

#include "comm/communicator.h"
#include "cuda_emulation/host_broadcast.h"
#include "support/op_cases.h"

namespace biqa {
namespace {

class NcclBroadcast : public ::testing::TestWithParam<testing::BroadcastCase> {};

TEST_P(NcclBroadcast, EveryRankGetsTheRootsBits) {
  const auto world = emulation::make_host_broadcasts(GetParam().ranks);
  testing::check_broadcast(GetParam(), [&](int rank, View data, int root) {
    world[static_cast<std::size_t>(rank)]->broadcast(data, root);
  });
}

TEST_P(NcclBroadcast, TheCommunicatorOfTheCpuDoesTheSame) {
  const auto world = make_thread_world(GetParam().ranks, Seconds{30});
  testing::check_broadcast(GetParam(), [&](int rank, View data, int root) {
    world[static_cast<std::size_t>(rank)]->broadcast(data, root);
  });
}

INSTANTIATE_TEST_SUITE_P(Cases, NcclBroadcast, ::testing::ValuesIn(testing::broadcast_cases()));

TEST(NcclBroadcastDeathTest, RefusesARootThatIsNotThere) {
  const auto world = emulation::make_host_broadcasts(1);
  float value = 0;
  EXPECT_DEATH(world[0]->broadcast(View(&value, 1, 1), 1), "1 of 1");
}

}  // namespace
}  // namespace biqa
