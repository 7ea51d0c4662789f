// SPDX-License-Identifier: Apache-2.0
// Runs the CUDA operations on host views: copies inputs to the device, runs the operation, copies the output back. The
// same code works with the emulator and a real device. Include it only in tests that are built with one of the two.
#pragma once

#include <gtest/gtest.h>

#include <cstring>

#include "ops/cuda/matmul_backend.h"
#include "support/op_cases.h"
#include "tensor/cuda/runtime.h"

namespace biqa::testing {

inline cuda::DeviceTensor on_device(ConstView host, const cuda::Stream& stream) {
  cuda::DeviceTensor copy(host.type(), host.rows(), host.columns(), "test input");
  cuda::copy_to_device(host, copy.view(), stream);
  return copy;
}

/// Calls `write(device view)` with an output like y between guards, and copies the result to y.
template <typename Write>
void write_guarded(View y, const cuda::Stream& stream, const Write& write) {
  GuardedOutput guarded(y.type(), y.rows(), y.columns());
  const cuda::DeviceTensor whole = on_device(guarded.whole().view(), stream);
  write(guarded.part_of(whole.view()));
  cuda::copy_to_host(whole.view(), guarded.whole().view(), stream);
  stream.synchronise();
  EXPECT_EQ(guarded.damaged(), 0) << "elements written outside the output in device memory";
  const std::size_t row_bytes = static_cast<std::size_t>(y.columns()) * size_of(y.type());
  for (std::int64_t r = 0; r < y.rows(); ++r) {
    std::memcpy(y.row_range(r, 1).data(), guarded.view().row_range(r, 1).data(), row_bytes);
  }
}

inline void run_cuda_linear(cuda::MatmulBackend& backend, const cuda::Stream& stream, ConstView x,
                            ConstView weight, ConstView bias, View y) {
  const cuda::DeviceTensor device_x = on_device(x, stream);
  const cuda::DeviceTensor device_weight = on_device(weight, stream);
  const cuda::DeviceTensor device_bias = on_device(bias, stream);
  write_guarded(y, stream, [&](View device_y) {
    backend.linear(device_x.view(), device_weight.view(), device_bias.view(), device_y);
  });
}

}  // namespace biqa::testing
