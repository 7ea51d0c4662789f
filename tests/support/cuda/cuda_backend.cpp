// SPDX-License-Identifier: Apache-2.0
// Linked into a test of the network, where it replaces the device cpu by the CUDA backend (in the emulator or on a device).
// Ranks are threads that share one device, which NCCL refuses: their tensors travel through the host.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "comm/tensor_link.h"
#include "core/error.h"
#include "ops/backends.h"
#include "ops/cuda/cuda_ops.h"

namespace {

[[maybe_unused]] const bool kIsSet = [] {
  biqa::set_further_backend([](const biqa::DeviceChoice& choice) {
    return std::make_unique<biqa::cuda::CudaOps>(choice.compute, 0, choice.vision_attention);
  });
  biqa::set_tensor_link_maker(biqa::make_host_link);
  return true;
}();

/// Where there is no device, the program ends as CTest knows it for a skipped test (SKIP_RETURN_CODE).
class NeedsDevice final : public ::testing::Environment {
  void SetUp() override {
    try {
      biqa::cuda::select_device(0);
    } catch (const biqa::Error& error) {
      std::puts((std::string("skipped: ") + error.what()).c_str());
      std::exit(77);
    }
  }
};
[[maybe_unused]] const auto* const kNeedsDevice = ::testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace
