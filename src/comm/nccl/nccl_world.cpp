// SPDX-License-Identifier: Apache-2.0
// Implements world.h with NCCL, version 2.14 or later.
#include <nccl.h>

#include <cstring>

#include "comm/nccl/device_link.h"
#include "comm/nccl/link.h"
#include "core/error.h"

namespace biqa::nccl {
namespace {

static_assert(sizeof(ncclUniqueId) == sizeof(WorldName));

bool accepted(ncclResult_t status) {
  return status == ncclSuccess || status == ncclInProgress;
}

std::string reason(ncclResult_t status, ncclComm_t communicator) {
  const std::string text = ncclGetErrorString(status);
  const char* more = ncclGetLastError(communicator);
  return more == nullptr || *more == '\0' ? text : text + " (" + more + ")";
}

void check(ncclResult_t status, const char* call, ncclComm_t communicator) {
  if (accepted(status)) return;
  fail("NCCL call {}: {}; set NCCL_DEBUG=INFO to see more", call, reason(status, communicator));
}

class NcclWorld final : public World {
 public:
  NcclWorld(const WorldName& name, int rank, int ranks, const cuda::Stream& stream) : stream_(stream) {
    BIQA_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
    ncclUniqueId id;
    std::memcpy(&id, name.data(), sizeof id);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const ncclResult_t status = ncclCommInitRankConfig(&communicator_, ranks, id, rank, &config);
    if (accepted(status)) return;
    const std::string why = reason(status, nullptr);
    release();
    fail("NCCL call ncclCommInitRankConfig: {}; set NCCL_DEBUG=INFO to see more", why);
  }
  ~NcclWorld() override { release(); }
  NcclWorld(const NcclWorld&) = delete;
  NcclWorld& operator=(const NcclWorld&) = delete;

  State state() override {
    ncclResult_t status = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &status);
    if (asked != ncclSuccess) status = asked;
    if (status == ncclSuccess) return {Progress::ready};
    if (status == ncclInProgress) return {Progress::under_way};
    return {Progress::failed, reason(status, communicator_)};
  }

  void start(std::span<const Move> moves) override {
    check(ncclGroupStart(), "ncclGroupStart", communicator_);
    ncclResult_t status = ncclSuccess;
    for (const Move& move : moves) {
      status = post(move);
      if (!accepted(status)) break;
    }
    const ncclResult_t end = ncclGroupEnd();  // needed after a failure too, to close the group
    check(status, "for a move", communicator_);
    check(end, "ncclGroupEnd", communicator_);
  }

  void mark() override { BIQA_CUDA_CHECK(cudaEventRecord(event_, stream_.get())); }

  bool passed() override {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) return false;
    BIQA_CUDA_CHECK(status);
    return true;
  }

  void leave() override {
    check(ncclCommFinalize(communicator_), "ncclCommFinalize", communicator_);
    left_ = true;
  }

 private:
  ncclResult_t post(const Move& move) {
    const auto bytes = static_cast<std::size_t>(move.bytes);
    switch (move.kind) {
      case Move::Kind::send:
        return ncclSend(move.from, bytes, ncclUint8, move.peer, communicator_, stream_.get());
      case Move::Kind::receive:
        return ncclRecv(move.to, bytes, ncclUint8, move.peer, communicator_, stream_.get());
      case Move::Kind::broadcast:
        return ncclBroadcast(move.from, move.to, bytes, ncclUint8, move.peer, communicator_, stream_.get());
    }
    return ncclInvalidArgument;
  }

  void release() noexcept {
    if (communicator_ != nullptr) {
      const bool finished = left_ && state().progress == Progress::ready;
      const ncclResult_t status = finished ? ncclCommDestroy(communicator_) : ncclCommAbort(communicator_);
      LOG_IF(WARNING, !accepted(status))
          << "freeing an NCCL communicator failed: " << ncclGetErrorString(status);
      communicator_ = nullptr;
    }
    if (event_ == nullptr) return;
    const cudaError_t status = cudaEventDestroy(event_);
    LOG_IF(WARNING, status != cudaSuccess)
        << "destroying a CUDA event failed: " << cudaGetErrorString(status);
    event_ = nullptr;
  }

  const cuda::Stream& stream_;
  cudaEvent_t event_ = nullptr;
  ncclComm_t communicator_ = nullptr;
  bool left_ = false;
};

class Nccl final : public Library {
  WorldName make_name() override {
    ncclUniqueId id;
    check(ncclGetUniqueId(&id), "ncclGetUniqueId", nullptr);
    WorldName name{};
    std::memcpy(name.data(), &id, sizeof id);
    return name;
  }
  std::unique_ptr<World> join(const WorldName& name, int rank, int ranks,
                              const cuda::Stream& stream) override {
    return std::make_unique<NcclWorld>(name, rank, ranks, stream);
  }
};

}  // namespace

Library& library() {
  static Nccl nccl;
  return nccl;
}

std::unique_ptr<TensorLink> make_device_link(Communicator& ranks, DeviceMemory& memory,
                                             const Shards& shards) {
  auto* const device = dynamic_cast<cuda::CudaMemory*>(&memory);
  if (device == nullptr || ranks.size() == 1) return nullptr;
  return std::make_unique<NcclLink>(library(), ranks, *device, shards);
}

}  // namespace biqa::nccl
