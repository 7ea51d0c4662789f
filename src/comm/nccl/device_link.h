// SPDX-License-Identifier: Apache-2.0
// The link over NCCL as tensor_link.cpp sees it. It exists in every build, with NCCL (nccl_world.cpp) or without (absent.cpp).
#pragma once

#include <memory>

#include "comm/tensor_link.h"

namespace biqa::nccl {

/// A link for tensors in GPU memory. nullptr for other memory, for a single rank, and in a build without NCCL.
std::unique_ptr<TensorLink> make_device_link(Communicator& ranks, DeviceMemory& memory, const Shards& shards);

}  // namespace biqa::nccl
