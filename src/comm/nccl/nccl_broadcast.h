// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>

#include "comm/nccl/broadcast_backend.h"
#include "tensor/cuda/runtime.h"

namespace biqa::nccl {

/// Names a world: made by one rank, given to all others by the control plane.
using WorldName = std::array<std::byte, 128>;
WorldName make_world_name();

/// Broadcast of device memory over NCCL on `stream`, which must outlive the backend. Every rank of the world
/// calls this at the same time, with its own device current. A broadcast that takes longer than `deadline` is an Error.
std::unique_ptr<BroadcastBackend> make_nccl_broadcast(const WorldName& world, int rank, int ranks,
                                                      const cuda::Stream& stream,
                                                      std::chrono::seconds deadline);

}  // namespace biqa::nccl
