// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl/broadcast_backend.h"

namespace biqa::nccl {

BroadcastBackend::BroadcastBackend(int rank, int ranks) : rank_(rank), ranks_(ranks) {
  CHECK(rank >= 0 && rank < ranks) << rank << " of " << ranks;
}

void BroadcastBackend::broadcast(View data, int root) {
  CHECK(root >= 0 && root < ranks_) << root << " of " << ranks_;
  CHECK(data.dense());
  if (data.empty()) return;
  send_bytes(data.address(), static_cast<std::size_t>(data.size()) * size_of(data.type()), root);
}

}  // namespace biqa::nccl
