// SPDX-License-Identifier: Apache-2.0
// One block per row of logits.
#include "ops/cuda/head.h"

#include "ops/cuda/kernel_support.h"
#include "ops/cuda/softmax_row.h"

namespace biqa::cuda {
namespace {

template <typename Derivative>
__global__ void log_prob_kernel(Rows<const float> logits, int vocabulary, const std::int64_t* targets,
                                float inverse, Rows<float> scores, Rows<Derivative> d_logits) {
  const float* row = logits[blockIdx.x];
  const RowStatistics s = row_statistics(row, vocabulary, inverse, dynamic_shared<float>());
  const std::int64_t target = targets[blockIdx.x];
  const float logp = row_logp(s, row[target], inverse);
  if (thread_index() == 0) {
    scores[blockIdx.x][0] = logp;
    scores[blockIdx.x][1] = row_entropy(s);
  }
  if (d_logits.data == nullptr) return;
  Derivative* d_row = d_logits[blockIdx.x];
  const float factor = -inverse / s.sum;
  for (int i = thread_index(); i < vocabulary; i += block_threads()) {
    const float d = i == target ? (1.0F - expf(logp)) * inverse
                                : expf(relative_logit(row[i], inverse, s.maximum)) * factor;
    d_row[i] = rounded_to<Derivative>(d);
  }
}

}  // namespace

void log_prob(ConstView logits, DeviceSpan<std::int64_t> targets, float temperature, View scores,
              View d_logits, const Stream& stream) {
  CHECK(targets.size == logits.rows() && scores.rows() == logits.rows() && scores.columns() == 2)
      << logits.rows() << " rows, " << targets.size << " targets, scores " << scores.rows() << "x"
      << scores.columns();
  CHECK(d_logits.empty() || (d_logits.rows() == logits.rows() && d_logits.columns() == logits.columns()));
  if (logits.empty()) return;
  CHECK_LE(logits.columns(), std::numeric_limits<int>::max() - kMaxRowThreads);
  const int threads = row_threads(logits.columns());
  const std::size_t shared_bytes = static_cast<std::size_t>(threads / kWarpSize) * sizeof(float);
  with_float_type(d_logits.type(), [&](auto zero) {
    using Derivative = decltype(zero);
    launch(log_prob_kernel<Derivative>, grid_size(logits.rows()), static_cast<unsigned>(threads),
           shared_bytes, stream, rows_of<float>(logits), static_cast<int>(logits.columns()), targets.data,
           1.0F / temperature, rows_of<float>(scores), rows_of<Derivative>(d_logits));
  });
}

}  // namespace biqa::cuda
