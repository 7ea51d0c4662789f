// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/cuda_sampled.h"

#include <cstring>

#include "core/error.h"

namespace biqa::cuda {
namespace {

constexpr std::int64_t kTokenWords = sizeof(DeviceSampledToken) / sizeof(std::int64_t);
static_assert(sizeof(DeviceSampledToken) % sizeof(std::int64_t) == 0);

SampledToken checked(const DeviceSampledToken& token) {
  if (token.finite == 0) {
    fail(
        "cannot sample a token: the network's output is not finite; use other weights or another adapter, or "
        "train with a lower optimizer.lr");
  }
  CHECK_GE(token.id, 0) << "no token may be sampled";
  return {token.id, token.logp, token.entropy};
}

}  // namespace

CudaSampled::CudaSampled(std::int64_t count, CudaMemory& memory)
    : memory_(memory),
      device_(memory.allocate(DType::i64, count, kTokenWords, "activations")),
      landed_(memory.pinned().take(device_.bytes())) {}

void CudaSampled::send() {
  memory_.copy(device_.view(), {landed_->data(), DType::i64, device_.rows(), kTokenWords, kTokenWords});
  landed_->last_use.record(memory_.stream());
}

std::span<const SampledToken> CudaSampled::wait() {
  if (waited_) return tokens_;
  memory_.wait(landed_->last_use);
  waited_ = true;
  for (std::int64_t i = 0; i < device_.rows(); ++i) {
    DeviceSampledToken token;
    std::memcpy(static_cast<void*>(&token), landed_->data() + static_cast<std::size_t>(i) * sizeof token,
                sizeof token);
    tokens_.push_back(checked(token));
  }
  return tokens_;
}

}  // namespace biqa::cuda
