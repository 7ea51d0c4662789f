// SPDX-License-Identifier: Apache-2.0
// Collectives on flat f32 tensors in a backend's memory: what learners exchange at every update.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "tensor/device_memory.h"

namespace biqa {

/// Every rank calls these in step. All tensors are [1, n] f32; `whole` has a shard for each rank, in rank order. Both return
/// when the result is there.
class TensorLink {
 public:
  virtual ~TensorLink() = default;
  /// shard = this rank's range of the sum over the ranks, summed in rank order.
  virtual void reduce_scatter_sum(ConstView whole, View shard) = 0;
  /// whole = every rank's shard. `shard` is not part of it.
  virtual void all_gather(ConstView shard, View whole) = 0;
};

/// Through the host's memory and `ranks`, both of which must outlive it.
std::unique_ptr<TensorLink> make_host_link(Communicator& ranks, DeviceMemory& memory);

}  // namespace biqa
