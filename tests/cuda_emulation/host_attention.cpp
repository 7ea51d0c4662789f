// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/host_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cuda_emulation/device_memory.h"
#include "cuda_emulation/streams.h"
#include "ops/cuda/buffers.h"
#include "tensor/cuda/runtime.h"

namespace biqa::emulation {
namespace {

/// Row `row` of bf16 as f32, from `column` on.
std::vector<float> row_of(ConstView rows, std::int64_t row, std::int64_t column, std::int64_t count) {
  const auto* from = static_cast<const Bf16*>(rows.address()) + row * rows.stride() + column;
  library_reads(from, static_cast<std::size_t>(count) * sizeof(Bf16));
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(to_float(from[i]));
  return values;
}

/// One head of a segment. `divide_first`: weights are divided by their sum before they are rounded.
void attend_head(ConstView q, ConstView k, ConstView v, std::int64_t head, std::int64_t dim,
                 bool divide_first, View out) {
  const std::int64_t column = head * dim;
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  std::vector<std::vector<float>> keys;
  std::vector<std::vector<float>> values;
  for (std::int64_t j = 0; j < k.rows(); ++j) {
    keys.push_back(row_of(k, j, column, dim));
    values.push_back(row_of(v, j, column, dim));
  }
  std::vector<float> weights(keys.size());
  std::vector<float> sums(static_cast<std::size_t>(dim));
  for (std::int64_t row = 0; row < q.rows(); ++row) {
    const std::vector<float> query = row_of(q, row, column, dim);
    for (std::size_t j = 0; j < keys.size(); ++j) {
      float score = 0;
      for (std::size_t d = 0; d < query.size(); ++d) score += query[d] * keys[j][d];
      weights[j] = score * scale;
    }
    const float maximum = *std::max_element(weights.begin(), weights.end());
    float total = 0;
    std::fill(sums.begin(), sums.end(), 0.0F);
    for (float& weight : weights) total += weight = std::exp(weight - maximum);
    const float before = divide_first ? total : 1.0F;
    for (std::size_t j = 0; j < keys.size(); ++j) {
      const float rounded = to_float(to_bf16(weights[j] / before));
      for (std::size_t d = 0; d < sums.size(); ++d) sums[d] += rounded * values[j][d];
    }
    const float after = divide_first ? 1.0F : total;
    auto* to = static_cast<Bf16*>(out.address()) + row * out.stride() + column;
    library_writes(to, sums.size() * sizeof(Bf16));
    for (std::size_t d = 0; d < sums.size(); ++d) to[d] = to_bf16(sums[d] / after);
  }
}

}  // namespace

void HostAttention::attend_batch(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                                 const cuda::SegmentBatch& batch, View out, View workspace) {
  enqueue(stream_.get(), [=] {
    library_writes(workspace.address(), static_cast<std::size_t>(cuda::kVisionWorkspaceBytes));
    std::memset(workspace.address(), 0xff, static_cast<std::size_t>(cuda::kVisionWorkspaceBytes));  // NaN
    for (std::int64_t i = 0; i < batch.count; ++i) {
      const auto part = [&](auto rows) {
        return rows.row_range(batch.first + i * batch.distance, batch.length);
      };
      for (std::int64_t head = 0; head < shape.heads; ++head)
        attend_head(part(q), part(k), part(v), head, shape.head_dim, batch.count % 2 == 0, part(out));
    }
  });
}

}  // namespace biqa::emulation

namespace biqa::cuda {

std::unique_ptr<VisionAttention> make_vision_attention(const Stream& stream) {
  return std::make_unique<emulation::HostAttention>(stream);
}

}  // namespace biqa::cuda
