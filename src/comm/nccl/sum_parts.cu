// SPDX-License-Identifier: Apache-2.0
// One thread adds all parts of one element, in the order of the ranks.
#include "comm/nccl/sum_parts.h"

#include "tensor/cuda/launch.h"

namespace biqa::nccl {
namespace {

constexpr std::int64_t kThreads = 256;

__global__ void sum_parts_kernel(const float* own, const float* received, int own_rank, int ranks,
                                 std::int64_t elements, float* sum) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= elements) return;
  float total = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const std::int64_t row = rank < own_rank ? rank : rank - 1;
    const float part = rank == own_rank ? own[at] : received[row * elements + at];
    total = rank == 0 ? part : total + part;
  }
  sum[at] = total;
}

}  // namespace

void sum_parts(ConstView own, ConstView received, int own_rank, View sum, const cuda::Stream& stream) {
  const std::int64_t elements = sum.size();
  CHECK(own.size() == elements && received.columns() == elements)
      << own.size() << ", " << received.columns() << " into " << elements;
  CHECK(own.dense() && received.dense() && sum.dense());
  if (elements == 0) return;
  const auto blocks = static_cast<unsigned>((elements + kThreads - 1) / kThreads);
  cuda::launch(sum_parts_kernel, dim3(blocks), dim3(static_cast<unsigned>(kThreads)), 0, stream,
               cuda::elements<float>(own), cuda::elements<float>(received), own_rank,
               static_cast<int>(received.rows()) + 1, elements, cuda::elements<float>(sum));
}

}  // namespace biqa::nccl
