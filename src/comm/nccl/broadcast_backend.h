// SPDX-License-Identifier: Apache-2.0
// The seam to NCCL: one collective, no NCCL types, so that the tests can put a world of threads in its place.
#pragma once

#include "tensor/tensor.h"

namespace biqa::nccl {

class BroadcastBackend {
 public:
  virtual ~BroadcastBackend() = default;

  /// Makes `data` on every rank equal to what it is on rank `root`. Every rank calls it with a dense view of
  /// the same type and shape; returns when this rank's data is there. Throws Error, naming operation and
  /// rank, when a peer is gone or the deadline passes.
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
