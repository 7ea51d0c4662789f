// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl/nccl_broadcast.h"

#include <nccl.h>

#include <cstring>
#include <thread>

#include "core/error.h"

namespace biqa::nccl {
namespace {

static_assert(sizeof(ncclUniqueId) == sizeof(WorldName));

void check_nccl(ncclResult_t status, const char* call, int rank, ncclComm_t communicator) {
  if (status == ncclSuccess) return;
  fail("NCCL call {} on rank {}: {} ({}); set NCCL_DEBUG=INFO for details", call, rank,
       ncclGetErrorString(status), ncclGetLastError(communicator));
}

class NcclBroadcast final : public BroadcastBackend {
 public:
  NcclBroadcast(const WorldName& world, int rank, int ranks, const cuda::Stream& stream,
                std::chrono::seconds deadline)
      : BroadcastBackend(rank, ranks), stream_(stream), deadline_(deadline) {
    ncclUniqueId id;
    std::memcpy(&id, world.data(), sizeof id);
    check_nccl(ncclCommInitRank(&communicator_, ranks, id, rank), "ncclCommInitRank", rank, nullptr);
  }
  // Abort frees as destroy does, but does not wait for peers that may be gone.
  ~NcclBroadcast() override { ncclCommAbort(communicator_); }
  NcclBroadcast(const NcclBroadcast&) = delete;
  NcclBroadcast& operator=(const NcclBroadcast&) = delete;

 private:
  void send_bytes(void* data, std::size_t bytes, int root) override {
    check_nccl(ncclBroadcast(data, data, bytes, ncclUint8, root, communicator_, stream_.get()),
               "ncclBroadcast", rank(), communicator_);
    const auto until = std::chrono::steady_clock::now() + deadline_;
    while (true) {
      const cudaError_t state = cudaStreamQuery(stream_.get());
      if (state == cudaSuccess) return;
      if (state != cudaErrorNotReady) BIQA_CUDA_CHECK(state);
      ncclResult_t failure = ncclSuccess;
      check_nccl(ncclCommGetAsyncError(communicator_, &failure), "ncclCommGetAsyncError", rank(),
                 communicator_);
      check_nccl(failure, "ncclBroadcast", rank(), communicator_);
      if (std::chrono::steady_clock::now() > until) {
        fail(
            "NCCL broadcast of {} bytes from rank {} on rank {}: not done after {} s; look at the other "
            "ranks' logs",
            bytes, root, rank(), deadline_.count());
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  const cuda::Stream& stream_;
  std::chrono::seconds deadline_;
  ncclComm_t communicator_ = nullptr;
};

}  // namespace

WorldName make_world_name() {
  ncclUniqueId id;
  check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId", 0, nullptr);
  WorldName world;
  std::memcpy(world.data(), &id, sizeof id);
  return world;
}

std::unique_ptr<BroadcastBackend> make_nccl_broadcast(const WorldName& world, int rank, int ranks,
                                                      const cuda::Stream& stream,
                                                      std::chrono::seconds deadline) {
  return std::make_unique<NcclBroadcast>(world, rank, ranks, stream, deadline);
}

}  // namespace biqa::nccl
