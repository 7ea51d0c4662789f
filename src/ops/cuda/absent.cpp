// SPDX-License-Identifier: Apache-2.0
// Implements device.h in a build without CUDA.
#include "core/error.h"
#include "ops/cuda/device.h"

namespace biqa {

bool built_with_cuda() {
  return false;
}

void require_cuda_device() {
  fail("device cuda: this build has no CUDA backend; build it with `launch/build.sh cuda` or use device cpu");
}

DeviceFacts cuda_device_facts(int /*local_rank*/) {
  require_cuda_device();
  return {};
}

std::unique_ptr<Ops> make_cuda_ops(DType /*compute*/, int /*local_rank*/,
                                   VisionAttentionBy /*vision_attention*/) {
  require_cuda_device();
  return nullptr;
}

}  // namespace biqa
