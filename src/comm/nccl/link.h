// SPDX-License-Identifier: Apache-2.0
// Collectives on device memory through NCCL. The communicator moves no tensors. It only distributes the name of the
// NCCL world and runs barriers. If a rank never arrives, the Error of the barrier names it. Every wait has the
// communicator's deadline and calls its poll function.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "comm/nccl/world.h"
#include "comm/tensor_link.h"
#include "tensor/cuda/memory.h"

namespace biqa::nccl {

class NcclLink final : public TensorLink {
 public:
  /// Every rank has a GPU of its own. The first collective creates the NCCL world. The arguments must outlive the link.
  NcclLink(Library& library, Communicator& ranks, cuda::CudaMemory& memory, Shards shards);
  /// Leaves the world. Takes at most two seconds, also if a peer is lost.
  ~NcclLink() override;
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  void reduce_scatter_sum(ConstView whole, View shard) override;
  void all_gather(ConstView shard, View whole) override;
  void broadcast(View values, int root) override;

 private:
  enum class Until : std::uint8_t { usable, done };

  /// Runs `work` when all ranks have called this. After an exception the world is aborted and unusable.
  void run(const char* operation, const std::function<void()>& work);
  void join();
  void exchange(const char* operation, std::span<const Move> moves);
  void wait(const char* operation, Until until);
  /// "the sum over GPUs through NCCL on rank 3"
  std::string where(const char* operation) const;
  std::string peers() const;

  Library& library_;
  Communicator& ranks_;
  cuda::CudaMemory& memory_;
  Shards shards_;
  std::unique_ptr<World> world_;
  bool broken_ = false;
};

}  // namespace biqa::nccl
