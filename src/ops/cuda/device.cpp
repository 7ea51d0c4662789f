// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/device.h"

#include "core/error.h"
#include "tensor/cuda/runtime.h"

namespace biqa {

bool built_with_cuda() {
  return true;
}

void require_cuda_device() {
  cuda::select_device();
}

void refuse_cuda_network() {
  require_cuda_device();
  fail(
      "device cuda: only the linear product, RMSNorm and the broadcast run on CUDA in this version, not the "
      "whole "
      "network; use device cpu");
}

}  // namespace biqa
