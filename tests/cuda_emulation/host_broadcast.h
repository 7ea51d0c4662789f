// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "comm/nccl/broadcast_backend.h"

namespace biqa::emulation {

/// Stands in for NCCL: ranks that are threads of this process. Element r is rank r's, to be used by one thread.
std::vector<std::unique_ptr<nccl::BroadcastBackend>> make_host_broadcasts(int ranks);

}  // namespace biqa::emulation
