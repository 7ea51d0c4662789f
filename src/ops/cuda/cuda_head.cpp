// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/cuda_head.h"

#include <algorithm>
#include <vector>

#include "ops/cuda/buffers.h"
#include "ops/cuda/cuda_sampled.h"
#include "ops/cuda/head.h"
#include "tensor/arena.h"

namespace biqa::cuda {
namespace {

std::vector<DeviceSampleRequest> device_requests(std::span<const SampleRequest> requests) {
  std::vector<DeviceSampleRequest> all;
  all.reserve(requests.size());
  for (const SampleRequest& r : requests) {
    all.push_back({r.uniform, r.temperature, r.top_p, r.top_k, r.greedy ? 1 : 0});
  }
  return all;
}

template <typename T>
DeviceSpan<T> part(DeviceSpan<T> whole, std::int64_t first, std::int64_t count) {
  return {whole.data + first, count};
}

}  // namespace

void CudaHead::log_prob(ConstView h, std::span<const std::int64_t> targets, float temperature,
                        std::span<float> logp, std::span<float> entropy, View d_hidden) {
  CHECK_EQ(static_cast<std::int64_t>(targets.size()), h.rows());
  for (const std::int64_t target : targets) CHECK(target >= 0 && target < head_.out) << target;
  if (targets.empty()) return;
  CudaMemory& memory = ops_.device_memory();
  Upload upload;
  const auto place = upload.add(std::vector<std::int64_t>(targets.begin(), targets.end()));
  upload.commit(memory, "activations");
  Tensor scores = memory.allocate(DType::f32, h.rows(), 2, "activations");
  Arena arena("logits", memory);
  for (std::int64_t first = 0; first < h.rows(); first += kLogitRows) {
    const Arena::Scope scope(arena);
    const std::int64_t count = std::min(kLogitRows, h.rows() - first);
    const LogitBuffers b = d_hidden.empty() ? take_logits(count, head_.out, arena)
                                            : take_logits(count, head_.out, ops_.compute_type(), arena);
    ops_.linear(h.row_range(first, count), head_, b.logits);
    cuda::log_prob(b.logits, part(upload.at(place), first, count), temperature,
                   scores.view().row_range(first, count), b.computed, ops_.stream());
    if (!d_hidden.empty()) ops_.linear_backward(b.computed, head_, d_hidden.row_range(first, count));
  }
  const Tensor values = copied_to_host(memory, scores.view(), "activations");
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const float* row = values.row<float>(static_cast<std::int64_t>(i));
    logp[i] = row[0];
    entropy[i] = row[1];
  }
}

std::unique_ptr<SampledTokens> CudaHead::sample(ConstView h, std::span<const SampleRequest> requests,
                                                std::span<const std::int64_t> suppressed) {
  CHECK_EQ(static_cast<std::int64_t>(requests.size()), h.rows());
  CudaMemory& memory = ops_.device_memory();
  Upload upload;
  const auto requests_place = upload.add(device_requests(requests));
  const auto suppressed_place = upload.add(std::vector<std::int64_t>(suppressed.begin(), suppressed.end()));
  upload.commit(memory, "activations");
  auto tokens = std::make_unique<CudaSampled>(h.rows(), memory);
  Arena arena("logits", memory);
  for (std::int64_t first = 0; first < h.rows(); first += kLogitRows) {
    const Arena::Scope scope(arena);
    const std::int64_t count = std::min(kLogitRows, h.rows() - first);
    const LogitBuffers b = take_logits(count, head_.out, DType::f32, arena);
    ops_.linear(h.row_range(first, count), head_, b.logits);
    cuda::sample(b.logits, part(upload.at(requests_place), first, count), upload.at(suppressed_place),
                 b.computed, tokens->on_device() + first, ops_.stream());
  }
  tokens->send();
  return tokens;
}

}  // namespace biqa::cuda
