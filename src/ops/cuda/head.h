// SPDX-License-Identifier: Apache-2.0
// Log-probabilities, their derivatives and sampled tokens from rows of logits. log_prob() and sample() use the same
// device function for the maximum and the sums of a row (softmax_row.h). So actor and learner get the same bits. All
// calls only enqueue work.
#pragma once

#include <cstdint>

#include "ops/decoder.h"
#include "tensor/cuda/runtime.h"
#include "tensor/cuda/span.h"

namespace biqa::cuda {

/// For every row of logits [T, vocabulary] f32 computes p = softmax(logits / temperature). Then scores[t] = {log p of
/// targets[t], entropy of p in nats}; scores [T, 2] f32. Unless d_logits is empty, d_logits [T, vocabulary] (f32 or
/// bf16) = ∂logp/∂logits = ([i = target] − p_i) / temperature.
void log_prob(ConstView logits, DeviceSpan<std::int64_t> targets, float temperature, View scores,
              View d_logits, const Stream& stream);

/// As SampleRequest, for the device.
struct DeviceSampleRequest {
  double uniform = 0.5;
  float temperature = 1.0F;
  float top_p = 1.0F;
  std::int32_t top_k = 0;
  std::int32_t greedy = 0;
};
/// As SampledToken. `finite` 0: the row's logits are not finite, and there is no token. id −1: no token may be sampled.
struct DeviceSampledToken {
  std::int64_t id = -1;
  float logp = 0;
  float entropy = 0;
  std::int32_t finite = 0;
  std::int32_t padding = 0;
};
/// ids[rows[i].row] = the id of tokens[rows[i].pick], but 0 where there is no token.
void write_sampled(const DeviceSampledToken* tokens, DeviceSpan<SampledRow> rows, std::int64_t* ids,
                   const Stream& stream);
/// One token for each row of logits [T, vocabulary] f32 (Decoder::sample, SampleRequest). `weights` [T, vocabulary] f32 is
/// working memory. Ids in `suppressed` are never chosen but count in the softmax.
void sample(ConstView logits, DeviceSpan<DeviceSampleRequest> requests, DeviceSpan<std::int64_t> suppressed,
            View weights, DeviceSampledToken* tokens, const Stream& stream);

}  // namespace biqa::cuda
