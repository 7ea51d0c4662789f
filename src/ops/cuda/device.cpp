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

std::unique_ptr<Ops> make_cuda_ops(DType compute, int local_rank) {
  return std::make_unique<cuda::CudaOps>(compute, local_rank);
}

}  // namespace biqa
