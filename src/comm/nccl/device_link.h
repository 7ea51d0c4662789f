// SPDX-License-Identifier: Apache-2.0
// The part of this folder that tensor_link.cpp uses. Every build has it: nccl_world.cpp implements it with NCCL,
// absent.cpp without.
#pragma once

#include <memory>

#include "comm/tensor_link.h"

namespace biqa::nccl {

/// A link for tensors in GPU memory. nullptr for other memory, for a single rank, and in a build without NCCL.
std::unique_ptr<TensorLink> make_device_link(Communicator& ranks, DeviceMemory& memory, const Shards& shards);

}  // namespace biqa::nccl
