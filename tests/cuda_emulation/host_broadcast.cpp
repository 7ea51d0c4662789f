// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/host_broadcast.h"

#include <barrier>
#include <cstring>

#include "cuda_emulation/device_memory.h"
#include "cuda_emulation/streams.h"

namespace biqa::emulation {
namespace {

struct World {
  explicit World(int ranks) : barrier(ranks) {}
  std::barrier<> barrier;
  const void* source = nullptr;
};

class HostBroadcast final : public nccl::BroadcastBackend {
 public:
  HostBroadcast(int rank, int ranks, std::shared_ptr<World> world)
      : BroadcastBackend(rank, ranks), world_(std::move(world)) {}

 private:
  void send_bytes(void* data, std::size_t bytes, int root) override {
    finish_all_work();
    const OpenDeviceMemory open;
    if (rank() == root) world_->source = data;
    world_->barrier.arrive_and_wait();
    if (rank() != root) std::memcpy(data, world_->source, bytes);
    world_->barrier.arrive_and_wait();
  }

  std::shared_ptr<World> world_;
};

}  // namespace

std::vector<std::unique_ptr<nccl::BroadcastBackend>> make_host_broadcasts(int ranks) {
  const auto world = std::make_shared<World>(ranks);
  std::vector<std::unique_ptr<nccl::BroadcastBackend>> members;
  members.reserve(static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank)
    members.push_back(std::make_unique<HostBroadcast>(rank, ranks, world));
  return members;
}

}  // namespace biqa::emulation
