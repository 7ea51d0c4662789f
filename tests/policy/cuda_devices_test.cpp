// SPDX-License-Identifier: Apache-2.0
// Ranks that open a model on GPUs: each needs one of its own (emulator).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "comm/tensor_link.h"
#include "core/error.h"
#include "cuda_emulation/emulator.h"
#include "ops/cuda/cuda_ops.h"
#include "policy/policy.h"

namespace biqa {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

thread_local int rank_of_thread = 0;

class CudaDevices : public ::testing::Test {
 protected:
  void SetUp() override {
    set_further_backend([](const DeviceChoice& choice) {
      return std::make_unique<cuda::CudaOps>(choice.compute, rank_of_thread);
    });
    set_tensor_link_maker(make_host_link);
  }
  void TearDown() override {
    set_further_backend({});
    set_tensor_link_maker({});
    emulation::set_device_count(1);
    unsetenv("BIQA_EMULATOR_UUIDS");
  }
  /// Two ranks open the embedded model on a machine with so many GPUs; the error of each. The other rank then
  /// waits for the deadline.
  static std::vector<std::string> open(int devices, const char* uuids, Seconds deadline) {
    emulation::set_device_count(devices);
    setenv("BIQA_EMULATOR_UUIDS", uuids, 1);
    auto world = make_thread_world(2, deadline);
    std::vector<std::string> errors(world.size());
    std::vector<std::thread> threads;
    for (std::size_t rank = 0; rank < world.size(); ++rank) {
      threads.emplace_back([&, rank] {
        rank_of_thread = static_cast<int>(rank);
        try {
          Policy::open({BIQA_SOURCE_DIR "/assets/tiny/model", DType::f32, "cuda"}, *world[rank], "node7");
        } catch (const Error& error) {
          errors[rank] = error.what();
        }
        world[rank].reset();
      });
    }
    for (std::thread& thread : threads) thread.join();
    return errors;
  }
};

TEST_F(CudaDevices, EachRankHasItsOwn) {
  EXPECT_THAT(open(2, "own", Seconds(60)), Each(""));
  EXPECT_THAT(open(2, "none", Seconds(60)), Each(""));
}

TEST_F(CudaDevices, TwoRanksOnOneGpu) {
  for (const char* uuids : {"own", "shared"})
    EXPECT_THAT(open(1, uuids, Seconds(1))[0],
                MatchesRegex("ranks 0 and 1 use the same GPU "
                             "\\(GPU-[0-9a-f]{8}-0000-0000-0000-000000000001\\): start as many .*"));
  EXPECT_THAT(
      open(1, "none", Seconds(1))[0],
      MatchesRegex("ranks 0 and 1 use the same GPU \\(emulated 0 of process [0-9]+ of node node7\\): .*"));
}

// As in two containers: the addresses differ, the GPU does not.
TEST_F(CudaDevices, OneGpuUnderTwoAddresses) {
  EXPECT_THAT(open(2, "shared", Seconds(1))[0], HasSubstr("ranks 0 and 1 use the same GPU (GPU-"));
}

}  // namespace
}  // namespace biqa
