// SPDX-License-Identifier: Apache-2.0
// Sampled tokens on their way from the device. The next pass reads them in device memory, before the host has seen them.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "ops/cuda/head.h"
#include "tensor/cuda/memory.h"

namespace biqa::cuda {

class CudaSampled final : public SampledTokens {
 public:
  /// Tokens for `count` picks. Borrows `memory`.
  CudaSampled(std::int64_t count, CudaMemory& memory);
  bool ready() override { return landed_->last_use.reached(); }
  std::span<const SampledToken> wait() override;

  /// Where kernels write and read the tokens.
  DeviceSampledToken* on_device() { return static_cast<DeviceSampledToken*>(device_.view().address()); }
  /// Enqueues the copy to the host. Call it once, after the work that writes the tokens.
  void send();

 private:
  CudaMemory& memory_;
  Tensor device_;
  // The pool gives the buffer to nobody else before the device has reached its last use, even if nobody waits for the tokens.
  std::shared_ptr<PinnedBuffer> landed_;
  std::vector<SampledToken> tokens_;
  bool waited_ = false;
};

}  // namespace biqa::cuda
