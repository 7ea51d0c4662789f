// SPDX-License-Identifier: Apache-2.0
// Collectives on tensors in a backend's memory. Learners sum and gather at every update. Weights are broadcast once.
#pragma once

#include <functional>
#include <memory>

#include "comm/communicator.h"
#include "comm/shards.h"
#include "tensor/device_memory.h"

namespace biqa {

/// `whole` and `shard` are dense [1, n] f32. `whole` consists of all shards. `shard` is this rank's shard and does not
/// overlap `whole`. All functions are collective and return when the result is available. Deadline, errors and poll are
/// those of the communicator. After an Error every later call fails.
class TensorLink {
 public:
  virtual ~TensorLink() = default;
  /// shard = this rank's range of the sum over the ranks: ((x0 + x1) + x2) + … in rank order.
  virtual void reduce_scatter_sum(ConstView whole, View shard) = 0;
  /// whole = every rank's shard.
  virtual void all_gather(ConstView shard, View whole) = 0;
  /// values = `root`'s values. Dense, of any type; the caller makes sure that type and size are equal on all ranks.
  virtual void broadcast(View values, int root) = 0;
};

/// Makes a link for tensors in `memory`. Between GPUs it uses NCCL if the build has NCCL. Otherwise it exchanges
/// through host memory and `ranks`. `shards` is the same on all ranks. `ranks` and `memory` must outlive the link. Does
/// not communicate.
std::unique_ptr<TensorLink> make_tensor_link(Communicator& ranks, DeviceMemory& memory, Shards shards);

/// Makes a link that exchanges through host memory and `ranks`, for any kind of `memory`.
std::unique_ptr<TensorLink> make_host_link(Communicator& ranks, DeviceMemory& memory, Shards shards);

/// For tests: from now on make_tensor_link() returns the result of `make`. An empty function restores the normal links.
/// Call this before starting threads.
using TensorLinkMaker = std::function<std::unique_ptr<TensorLink>(Communicator&, DeviceMemory&, Shards)>;
void set_tensor_link_maker(TensorLinkMaker make);

}  // namespace biqa
