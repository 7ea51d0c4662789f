// SPDX-License-Identifier: Apache-2.0
// Collectives on flat f32 tensors in a backend's memory. Learners call them at every update.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "tensor/device_memory.h"

namespace biqa {

/// All tensors are [1, n] f32. `whole` has one shard per rank, in rank order. Both functions are collective and return
/// when the result is available.
class TensorLink {
 public:
  virtual ~TensorLink() = default;
  /// shard = this rank's range of the sum over the ranks, summed in rank order.
  virtual void reduce_scatter_sum(ConstView whole, View shard) = 0;
  /// whole = every rank's shard. `shard` is not part of it.
  virtual void all_gather(ConstView shard, View whole) = 0;
};

/// The link for tensors in `memory` (today through the host's memory and `ranks`; NCCL's belongs here). Both arguments must
/// outlive it.
std::unique_ptr<TensorLink> make_tensor_link(Communicator& ranks, DeviceMemory& memory);

}  // namespace biqa
