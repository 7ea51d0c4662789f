// SPDX-License-Identifier: Apache-2.0
// Linked into a test of the network, where it replaces the device cpu by the CUDA backend (in the emulator or on a device).
// Ranks are threads that share one device, which NCCL refuses: their tensors travel through the host.
#include "comm/tensor_link.h"
#include "ops/backends.h"
#include "ops/cuda/cuda_ops.h"

namespace {

const bool kIsSet = [] {
  biqa::set_further_backend(
      [](const biqa::DeviceChoice& choice) { return std::make_unique<biqa::cuda::CudaOps>(choice.compute); });
  biqa::set_tensor_link_maker(biqa::make_host_link);
  return true;
}();

}  // namespace
