// SPDX-License-Identifier: Apache-2.0
// Two learners on emulated GPUs: the link between their memories does not change a bit.
#include <gtest/gtest.h>

#include <atomic>

#include "comm/nccl/link.h"
#include "cuda_emulation/host_nccl.h"
#include "ops/cuda/cuda_ops.h"
#include "support/network_runs.h"

namespace biqa {
namespace {

TEST(NcclLearner, TheLinkDoesNotChangeABit) {
  const testing::TinyModel files(false);
  const auto load = [&] {
    return QwenVl::load(files.path(), std::make_shared<cuda::CudaOps>(DType::f32), {true, true});
  };
  LearnerOptions options;
  options.objective.beta = 0.05;
  options.max_grad_norm = 0.5;
  options.longest_allowed = 16;

  set_tensor_link_maker(make_host_link);
  const auto expected = testing::train(load, options);
  emulation::HostNccl library;
  std::atomic<int> links{0};
  set_tensor_link_maker([&](Communicator& ranks, DeviceMemory& memory, Shards shards) {
    ++links;
    return std::make_unique<nccl::NcclLink>(library, ranks, dynamic_cast<cuda::CudaMemory&>(memory),
                                            std::move(shards));
  });
  const auto results = testing::train(load, options);
  set_tensor_link_maker({});

  EXPECT_EQ(links, 2);
  EXPECT_EQ(library.ends(), 0);
  EXPECT_EQ(library.aborted(), 0);
  for (std::size_t rank = 0; rank < 2; ++rank) {
    EXPECT_GT(expected[rank].grad_norm, 0);
    EXPECT_EQ(results[rank].grad_norm, expected[rank].grad_norm);
    EXPECT_EQ(results[rank].values, expected[rank].values);
    EXPECT_EQ(results[rank].gradient, expected[rank].gradient);
    EXPECT_EQ(results[rank].m, expected[rank].m);
    EXPECT_EQ(results[rank].v, expected[rank].v);
  }
}

}  // namespace
}  // namespace biqa
