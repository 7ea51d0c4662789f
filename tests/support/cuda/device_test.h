// SPDX-License-Identifier: Apache-2.0
// For tests of kernels that run in the emulator and, in builds with CUDA (BIQA_ON_DEVICE), on a device.
#pragma once

#include <gtest/gtest.h>

#ifdef BIQA_ON_DEVICE
#include "core/error.h"
#include "ops/cuda/device.h"
#else
#include "cuda_emulation/emulator.h"
#endif

namespace biqa::testing {

/// Is skipped, with the reason, where a device is asked for and there is none.
class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
#ifdef BIQA_ON_DEVICE
    try {
      require_cuda_device();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
#endif
  }
};

/// Calls f with the emulator's threads in each order. On a device, which chooses its orders, calls it as often.
template <typename F>
void in_every_order(const F& f) {
#ifdef BIQA_ON_DEVICE
  for (int i = 0; i < 3; ++i) f();
#else
  for (const emulation::Order order :
       {emulation::Order::backward, emulation::Order::shuffled, emulation::Order::forward}) {
    emulation::set_order(order);
    f();
  }
#endif
}

}  // namespace biqa::testing
