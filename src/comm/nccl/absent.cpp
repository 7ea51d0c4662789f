// SPDX-License-Identifier: Apache-2.0
// Implements device_link.h in a build without NCCL.
#include "comm/nccl/device_link.h"

namespace biqa::nccl {

std::unique_ptr<TensorLink> make_device_link(Communicator& /*ranks*/, DeviceMemory& /*memory*/,
                                             const Shards& /*shards*/) {
  return nullptr;
}

}  // namespace biqa::nccl
