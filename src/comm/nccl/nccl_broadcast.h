// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>

#include "comm/nccl/broadcast_backend.h"
#include "tensor/cuda/runtime.h"

namespace biqa::nccl {

/// Identifies a world. One rank creates it and sends it to all others through a Communicator.
using WorldName = std::array<std::byte, 128>;
WorldName make_world_name();

/// Broadcast of device memory over NCCL on `stream`, which must outlive the backend. Every rank of the world calls this
/// at the same time, with its own device selected. A broadcast throws Error after `deadline`.
std::unique_ptr<BroadcastBackend> make_nccl_broadcast(const WorldName& world, int rank, int ranks,
                                                      const cuda::Stream& stream,
                                                      std::chrono::seconds deadline);

}  // namespace biqa::nccl
