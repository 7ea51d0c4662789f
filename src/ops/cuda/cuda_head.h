// SPDX-License-Identifier: Apache-2.0
// The head on a CUDA device. It computes the logits of a chunk of rows, and from them log-probabilities, their
// derivatives or sampled tokens.
#pragma once

#include <memory>
#include <span>

#include "ops/cuda/cuda_ops.h"

namespace biqa::cuda {

class CudaHead {
 public:
  /// Borrows both.
  CudaHead(CudaOps& ops, const FrozenLinear& head) : ops_(ops), head_(head) {}
  /// As Decoder::log_prob, with one target per row of h [T, hidden] (compute type). Waits.
  void log_prob(ConstView h, std::span<const std::int64_t> targets, float temperature, std::span<float> logp,
                std::span<float> entropy, View d_hidden);
  /// As Decoder::sample, with one token per row of h.
  std::unique_ptr<SampledTokens> sample(ConstView h, std::span<const SampleRequest> requests,
                                        std::span<const std::int64_t> suppressed);

 private:
  CudaOps& ops_;
  const FrozenLinear& head_;
};

}  // namespace biqa::cuda
