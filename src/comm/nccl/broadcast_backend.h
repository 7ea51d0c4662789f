// SPDX-License-Identifier: Apache-2.0
// The interface to NCCL: one collective, without NCCL types, so that tests can replace it by threads.
#pragma once

#include "tensor/tensor.h"

namespace biqa::nccl {

class BroadcastBackend {
 public:
  virtual ~BroadcastBackend() = default;

  /// Copies `data` of rank `root` to every rank. Every rank passes a dense view of the same type and shape. Returns
  /// when this rank's data has arrived. Throws Error naming operation and rank if a peer is lost or the deadline
  /// passes.
  void broadcast(View data, int root);

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }

 protected:
  BroadcastBackend(int rank, int ranks);

 private:
  virtual void send_bytes(void* data, std::size_t bytes, int root) = 0;

  int rank_;
  int ranks_;
};

}  // namespace biqa::nccl
