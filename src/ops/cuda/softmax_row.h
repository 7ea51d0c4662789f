// SPDX-License-Identifier: Apache-2.0
// The softmax of a row of logits, computed by one block. log_prob and sample share it, so that both get the same bits.
#pragma once

#include <algorithm>
#include <limits>

#include "ops/cuda/kernel_support.h"
#include "ops/cuda/reduce.h"

namespace biqa::cuda {

inline constexpr int kMaxRowThreads = 1024;
inline constexpr float kLowestLogit = -std::numeric_limits<float>::infinity();

/// Number of threads of the block for a row: whole warps. It depends only on the vocabulary.
inline int row_threads(std::int64_t vocabulary) {
  const std::int64_t warps = (vocabulary + kWarpSize - 1) / kWarpSize;
  return static_cast<int>(std::min<std::int64_t>(warps * kWarpSize, kMaxRowThreads));
}

/// Statistics of z = logit · inverse temperature over a row.
struct RowStatistics {
  float maximum = 0;
  float sum = 0;       ///< Σ exp(z − maximum)
  float weighted = 0;  ///< Σ (z − maximum) · exp(z − maximum)
};

__device__ inline float relative_logit(float logit, float inverse, float maximum) {
  return logit * inverse - maximum;
}

/// Every thread gets the same result. If the row has a NaN, `sum` is NaN, but `maximum` ignores it. `scratch` is shared
/// memory with one float per warp.
__device__ inline RowStatistics row_statistics(const float* logits, int vocabulary, float inverse,
                                               float* scratch) {
  float highest = kLowestLogit;
  for (int i = thread_index(); i < vocabulary; i += block_threads()) highest = fmaxf(highest, logits[i]);
  RowStatistics s;
  s.maximum = combine_in_block(highest, kLowestLogit, scratch, Larger()) * inverse;
  for (int i = thread_index(); i < vocabulary; i += block_threads()) {
    const float z = relative_logit(logits[i], inverse, s.maximum);
    const float e = expf(z);
    s.sum += e;
    s.weighted = fmaf(e, z, s.weighted);
  }
  s.sum = combine_in_block(s.sum, 0.0F, scratch, Sum());
  s.weighted = combine_in_block(s.weighted, 0.0F, scratch, Sum());
  return s;
}

__device__ inline float row_logp(const RowStatistics& s, float logit, float inverse) {
  return relative_logit(logit, inverse, s.maximum) - logf(s.sum);
}
__device__ inline float row_entropy(const RowStatistics& s) {
  return logf(s.sum) - s.weighted / s.sum;
}

}  // namespace biqa::cuda
