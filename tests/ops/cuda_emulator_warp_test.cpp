// SPDX-License-Identifier: Apache-2.0
// The emulator's order of threads and blocks, what warps do together, and what threads that wait wrongly are told.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cuda_emulation/emulator.h"
#include "ops/cuda/launch.h"
#include "support/device_values.h"

namespace biqa::cuda {
namespace {

using emulation::Order;
using testing::DeviceValues;

class CudaEmulatedWarp : public ::testing::TestWithParam<Order> {
 protected:
  void SetUp() override { emulation::set_order(GetParam()); }
  void TearDown() override { emulation::set_order(Order::forward); }
};

__global__ void warp_functions_kernel(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int* own = out + std::int64_t{threadIdx.x} * 12;
  own[0] = __shfl_xor_sync(kWholeWarp, lane, 5);
  own[1] = __shfl_down_sync(kWholeWarp, lane, 3);
  own[2] = __shfl_up_sync(kWholeWarp, lane, 3);
  own[3] = __shfl_sync(kWholeWarp, lane * 10, 7);
  own[4] = __shfl_down_sync(kWholeWarp, lane, 3, 8);
  own[5] = __shfl_sync(kWholeWarp, lane, 2, 8);
  own[6] = static_cast<int>(__ballot_sync(kWholeWarp, lane % 3 == 0));
  own[7] = __any_sync(kWholeWarp, lane == 20) * 2 + __any_sync(kWholeWarp, 0);
  own[8] = __all_sync(kWholeWarp, lane < 32) * 2 + __all_sync(kWholeWarp, lane != 20);
  own[9] = static_cast<int>(__reduce_add_sync(kWholeWarp, threadIdx.x));
  own[10] = static_cast<int>(__reduce_max_sync(kWholeWarp, threadIdx.x));
  // Half a warp together, the other half without it.
  own[11] = lane < 16 ? static_cast<int>(__reduce_add_sync(0xffffU, 1U)) : -1;
}

TEST_P(CudaEmulatedWarp, ItsFunctionsFollowTheirDefinition) {
  const DeviceValues<int> results(std::size_t{64} * 12, "results");
  launch(warp_functions_kernel, 1, 64, 0, Stream(), results.data());
  const std::vector<int> out = results.on_host();
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32;
    const int first = thread - lane;
    const std::vector<int> expected = {lane ^ 5,
                                       lane + 3 < 32 ? lane + 3 : lane,
                                       lane < 3 ? lane : lane - 3,
                                       70,
                                       lane % 8 + 3 < 8 ? lane + 3 : lane,
                                       lane / 8 * 8 + 2,
                                       0x49249249,
                                       2,
                                       2,
                                       32 * first + 496,
                                       first + 31,
                                       lane < 16 ? 16 : -1};
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_EQ(out[static_cast<std::size_t>(thread) * 12 + i], expected[i])
          << "thread " << thread << ", value " << i;
  }
}

__global__ void votes_kernel(int* out) {
  const int thread = static_cast<int>(threadIdx.x);
  int* own = out + std::int64_t{threadIdx.x} * 4;
  own[0] = __syncthreads_count(thread % 2);
  own[1] = __syncthreads_or(thread == 40);
  own[2] = __syncthreads_and(thread != 40);
  own[3] = __syncthreads_and(1);
}

TEST_P(CudaEmulatedWarp, BarriersCountVotes) {
  const DeviceValues<int> votes(std::size_t{70} * 4, "votes");
  launch(votes_kernel, 1, 70, 0, Stream(), votes.data());
  const std::vector<int> out = votes.on_host();
  for (std::size_t thread = 0; thread < 70; ++thread) {
    const std::vector<int> own(out.begin() + static_cast<std::ptrdiff_t>(thread) * 4,
                               out.begin() + static_cast<std::ptrdiff_t>(thread) * 4 + 4);
    EXPECT_EQ(own, (std::vector<int>{35, 1, 0, 1})) << thread;
  }
}

// Threads that have returned are not waited for.
__global__ void early_return_kernel(int* out) {
  if (threadIdx.x % 2 == 0) return;
  __syncthreads();
  if (threadIdx.x > 50) return;
  __syncwarp();
  out[threadIdx.x] = __syncthreads_count(1);
}

TEST_P(CudaEmulatedWarp, ThreadsThatReturnedAreNotWaitedFor) {
  const DeviceValues<int> counts(std::vector<int>(64));
  launch(early_return_kernel, 1, 64, 0, Stream(), counts.data());
  const std::vector<int> out = counts.on_host();
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], i % 2 == 1 && i <= 50 ? 25 : 0) << i;
}

INSTANTIATE_TEST_SUITE_P(Orders, CudaEmulatedWarp,
                         ::testing::Values(Order::forward, Order::backward, Order::shuffled));

__global__ void turns_kernel(unsigned* turns, unsigned* next) {
  turns[atomicAdd(next, 1U)] = blockIdx.x * blockDim.x + threadIdx.x;
}

std::vector<unsigned> turns_in(Order order, std::uint64_t seed) {
  emulation::set_order(order);
  emulation::set_seed(seed);
  const DeviceValues<unsigned> turns(std::size_t{5} * 40, "turns");
  const DeviceValues<unsigned> next(std::vector<unsigned>{0});
  launch(turns_kernel, 5, 40, 0, Stream(), turns.data(), next.data());
  emulation::set_order(Order::forward);
  emulation::set_seed(1);
  EXPECT_EQ(next.on_host(), std::vector<unsigned>{200});
  return turns.on_host();
}

TEST(CudaEmulatedOrder, OfThreadsAndBlocks) {
  std::vector<unsigned> ascending(200);
  for (unsigned i = 0; i < 200; ++i) ascending[i] = i;
  EXPECT_EQ(turns_in(Order::forward, 1), ascending);
  const std::vector<unsigned> shuffled = turns_in(Order::shuffled, 1);
  EXPECT_NE(turns_in(Order::shuffled, 2), shuffled);
  EXPECT_TRUE(std::is_permutation(shuffled.begin(), shuffled.end(), ascending.begin()));
  std::vector<unsigned> blocks;
  for (std::size_t i = 0; i < shuffled.size(); i += 40) blocks.push_back(shuffled[i] / 40);
  EXPECT_FALSE(std::is_sorted(blocks.begin(), blocks.end()));
  std::reverse(ascending.begin(), ascending.end());
  EXPECT_EQ(turns_in(Order::backward, 1), ascending);
}

__global__ void wrong_wait_kernel(int fault) {
  const unsigned thread = threadIdx.x;
  if (fault == 0) {  // half of the block never comes to the barrier
    if (thread < 32)
      __syncthreads();
    else
      __shfl_xor_sync(thread == 40 ? 3U << 8 : kWholeWarp, 1, 1);
  } else if (fault == 1) {  // one lane does something else
    if (thread == 37)
      __syncwarp();
    else
      __shfl_xor_sync(kWholeWarp, 1, 1);
  } else if (fault == 2) {  // one lane waits for the block
    if (thread == 37)
      __syncthreads();
    else
      __ballot_sync(kWholeWarp, 1);
  } else if (fault == 3) {  // one lane has returned, and its value is read
    if (thread == 37) return;
    __shfl_xor_sync(kWholeWarp, 1, 1);
  } else if (fault == 4) {  // the mask lacks the lane that calls
    __syncwarp(~32U);
  } else if (fault == 5) {  // other masks
    __syncwarp(thread == 37 ? 0xfffU : kWholeWarp);
  } else {  // two kinds of barrier
    if (thread < 32)
      __syncthreads();
    else
      __syncthreads_or(1);
  }
}

TEST(CudaEmulatorDeathTest, ThreadsThatWaitForWhatNeverComes) {
  const auto run = [](int fault) { launch(wrong_wait_kernel, 1, 64, 0, Stream(), fault); };
  EXPECT_DEATH(run(0),
               "thread 0 waits at a block barrier that others of the block never reach: thread 32 waits at "
               "__shfl_xor_sync with mask 0xffffffff; kernel .*wrong_wait_kernel, block \\(0,0,0\\), thread "
               "\\(0,0,0\\) \\(BIQA_EMULATOR_ORDER=forward BIQA_EMULATOR_SEED=1");
  EXPECT_DEATH(
      run(1),
      "thread 32 waits at __shfl_xor_sync with mask 0xffffffff that lane 5 never reaches: it waits at "
      "__syncwarp with mask 0xffffffff");
  EXPECT_DEATH(run(2),
               "thread 32 waits at __ballot_sync .* lane 5 never reaches: it waits at a block barrier");
  EXPECT_DEATH(run(3), "a shuffle reads lane 5, which does not take part; .*thread \\(36,0,0\\)");
  EXPECT_DEATH(run(4),
               "__syncwarp with mask 0xffffffdf, which lacks the calling lane 5; .*thread \\(5,0,0\\)");
  EXPECT_DEATH(run(5), "thread 32 waits at __syncwarp with mask 0xffffffff that lane 5 never reaches");
  EXPECT_DEATH(run(6),
               "__syncthreads_or, while other threads of the block wait at __syncthreads; .*thread "
               "\\(32,0,0\\)");
}

}  // namespace
}  // namespace biqa::cuda
