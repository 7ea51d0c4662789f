// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/device.h"

#include "ops/cuda/cuda_ops.h"

namespace biqa {

bool built_with_cuda() {
  return true;
}

void require_cuda_device() {
  cuda::select_device(0);
}

DeviceFacts cuda_device_facts(int local_rank) {
  cuda::select_device(local_rank);
  const cuda::Device device = cuda::selected_device();
  return {device.name, device.total_bytes, device.free_bytes};
}

std::unique_ptr<Ops> make_cuda_ops(DType compute, int local_rank, VisionAttentionBy vision_attention) {
  return std::make_unique<cuda::CudaOps>(compute, local_rank, vision_attention);
}

}  // namespace biqa
