// SPDX-License-Identifier: Apache-2.0
// NCCL on a real device, a world of one; built with CUDA only, skipped with its reason where there is no device.
#include <gtest/gtest.h>

#include <string>

#include "comm/nccl/nccl_broadcast.h"
#include "core/error.h"
#include "support/op_cases.h"

namespace biqa {
namespace {

TEST(NcclDevice, BroadcastInAWorldOfOne) {
  try {
    cuda::select_device(0);
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  const cuda::Stream stream;
  const auto world =
      nccl::make_nccl_broadcast(nccl::make_world_name(), 0, 1, stream, std::chrono::seconds(60));
  testing::check_broadcast({1, 0, DType::f32, 3, 1000}, [&](int /*rank*/, View data, int root) {
    const cuda::DeviceTensor device(data.type(), data.rows(), data.columns(), "broadcast");
    cuda::copy_to_device(data, device.view(), stream);
    world->broadcast(device.view(), root);
    cuda::copy_to_host(device.view(), data, stream);
    stream.synchronise();
  });
}

}  // namespace
}  // namespace biqa
