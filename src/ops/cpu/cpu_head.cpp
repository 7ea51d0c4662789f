// SPDX-License-Identifier: Apache-2.0
// The head: log-probabilities with their derivatives, and sampling.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "core/error.h"
#include "ops/backends.h"
#include "ops/cpu/cpu_ops.h"

namespace biqa {
namespace {

float row_logp(const cpu::RowStatistics& s, float logit, float inverse) {
  return (logit * inverse - s.maximum) - std::log(s.sum);
}

float row_entropy(const cpu::RowStatistics& s) {
  return std::log(s.sum) - s.weighted / s.sum;
}

constexpr std::size_t kDrawBlock = 256;  ///< weights that draw() sums before it looks at each

/// A token that top-k or top-p may keep.
struct Candidate {
  float weight;
  std::int64_t id;
};

/// Working memory for one row of logits at a time, in a thread's scratch. Its size depends on the vocabulary alone, so only
/// the first token of a thread allocates.
struct RowMemory {
  static std::size_t blocks(std::size_t vocabulary) { return (vocabulary + kDrawBlock - 1) / kDrawBlock; }
  static std::size_t bytes(std::size_t vocabulary) {
    return vocabulary * (sizeof(Candidate) + sizeof(float)) + blocks(vocabulary) * sizeof(double);
  }
  RowMemory(cpu::Scratch& scratch, std::int64_t vocabulary) {
    const auto n = static_cast<std::size_t>(vocabulary);
    const std::size_t block_count = blocks(n);
    void* memory = scratch.floats(static_cast<std::int64_t>((bytes(n) + sizeof(float) - 1) / sizeof(float)));
    // In the order of their alignment.
    candidates = {static_cast<Candidate*>(memory), n};
    memory = candidates.data() + n;
    block_sums = {static_cast<double*>(memory), block_count};
    memory = block_sums.data() + block_count;
    weights = {static_cast<float*>(memory), n};
  }
  std::span<Candidate> candidates;  ///< [vocabulary]
  std::span<double> block_sums;     ///< [ceil(vocabulary / kDrawBlock)]
  std::span<float> weights;         ///< [vocabulary]
};

/// Inverse of the cumulative weights, in order of ids. Overwrites `block_sums`.
std::int64_t draw(std::span<const float> weights, double uniform, std::span<double> block_sums) {
  double total = 0;
  for (std::size_t first = 0; first < weights.size(); first += kDrawBlock) {
    const std::size_t end = std::min(weights.size(), first + kDrawBlock);
    std::array<double, 8> lanes{};  // several sums, because additions to a single one would wait
    std::size_t i = first;
    for (; i + lanes.size() <= end; i += lanes.size()) {
      for (std::size_t lane = 0; lane < lanes.size(); ++lane)
        lanes[lane] += static_cast<double>(weights[i + lane]);
    }
    for (; i < end; ++i) lanes[0] += static_cast<double>(weights[i]);
    const double sum = std::accumulate(lanes.begin(), lanes.end(), 0.0);
    block_sums[first / kDrawBlock] = sum;
    total += sum;
  }
  double rest = uniform * total;
  std::int64_t last = -1;
  for (std::size_t b = 0; b < block_sums.size(); ++b) {
    if (rest >= block_sums[b] && b + 1 < block_sums.size()) {
      rest -= block_sums[b];
      continue;
    }
    const std::size_t end = std::min(weights.size(), (b + 1) * kDrawBlock);
    for (std::size_t i = b * kDrawBlock; i < end; ++i) {
      if (weights[i] <= 0) continue;
      last = static_cast<std::int64_t>(i);
      rest -= static_cast<double>(weights[i]);
      if (rest < 0) return last;
    }
  }
  if (last >= 0) return last;
  // Rounding moved the draw past the end, and the last block is empty. Takes the last token that may be drawn.
  for (std::size_t i = weights.size(); i-- > 0;) {
    if (weights[i] > 0) return static_cast<std::int64_t>(i);
  }
  return -1;
}

/// The tokens whose weights are not 0, in order of ids. Uses `memory`.
std::span<Candidate> candidates_of(std::span<const float> weights, std::span<Candidate> memory) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0) memory[count++] = {weights[i], static_cast<std::int64_t>(i)};
  }
  return memory.first(count);
}

/// Applies top-k (ties with the k-th stay), then top-p to the rest. Top-p keeps the fewest largest weights whose mass
/// exceeds p, as transformers' warpers do. The warpers go in ascending order, drop while the cumulative mass ≤ 1 − p,
/// and always keep the largest.
void truncate(const SampleRequest& request, std::span<float> weights, std::span<Candidate> memory) {
  std::span<Candidate> left = candidates_of(weights, memory);
  const auto k = static_cast<std::size_t>(request.top_k);
  if (request.top_k > 0 && k < left.size()) {
    const auto kth = left.begin() + static_cast<std::ptrdiff_t>(k) - 1;
    std::nth_element(left.begin(), kth, left.end(),
                     [](const Candidate& a, const Candidate& b) { return a.weight > b.weight; });
    const float threshold = kth->weight;
    for (float& w : weights) {
      if (w < threshold) w = 0.0F;
    }
    left = candidates_of(weights, memory);
  }
  if (request.top_p < 1.0F) {
    double total = 0;
    for (const Candidate& c : left) total += static_cast<double>(c.weight);
    // Equal weights in order of ids. A stable sort would do this alone, but it allocates.
    std::sort(left.begin(), left.end(), [](const Candidate& a, const Candidate& b) {
      return a.weight < b.weight || (a.weight == b.weight && a.id < b.id);
    });
    double cumulative = 0;
    for (std::size_t i = 0; i + 1 < left.size(); ++i) {
      cumulative += static_cast<double>(left[i].weight);
      if (cumulative > (1.0 - static_cast<double>(request.top_p)) * total) break;
      weights[static_cast<std::size_t>(left[i].id)] = 0.0F;
    }
  }
}

SampledToken sample_row(const cpu::Kernels& kernels, std::span<const float> logits,
                        const SampleRequest& request, std::span<const std::int64_t> suppressed,
                        const RowMemory& memory) {
  const auto n = static_cast<std::int64_t>(logits.size());
  const float inverse = request.greedy ? 1.0F : 1.0F / request.temperature;
  const cpu::RowStatistics s = kernels.row_statistics(logits.data(), n, inverse);
  if (!std::isfinite(s.maximum) || !std::isfinite(s.sum)) {
    fail(
        "cannot sample a token: the network's output is not finite; use other weights or another adapter, "
        "or train with a lower optimizer.lr");
  }
  SampledToken token;
  token.entropy = row_entropy(s);
  const std::span<float> weights = memory.weights;
  kernels.row_exp(logits.data(), n, inverse, s.maximum, 1.0F, weights.data(), false);
  for (const std::int64_t id : suppressed) weights[static_cast<std::size_t>(id)] = -1.0F;
  if (request.greedy) {
    token.id = -1;
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (weights[at] < 0) continue;
      if (token.id < 0 || logits[at] > logits[static_cast<std::size_t>(token.id)]) token.id = i;
    }
  } else {
    for (const std::int64_t id : suppressed) weights[static_cast<std::size_t>(id)] = 0.0F;
    if (request.top_k > 0 || request.top_p < 1.0F) truncate(request, weights, memory.candidates);
    token.id = draw(weights, request.uniform, memory.block_sums);
  }
  CHECK_GE(token.id, 0) << "no token may be sampled";
  token.logp = row_logp(s, logits[static_cast<std::size_t>(token.id)], inverse);
  return token;
}

}  // namespace

std::int64_t logit_rows(std::int64_t vocabulary) {
  constexpr std::int64_t kBytes = std::int64_t{16} << 20;
  return std::clamp<std::int64_t>(kBytes / (vocabulary * 4) / 32 * 32, 32, 512);
}

std::int64_t sampling_thread_bytes(std::int64_t vocabulary) {
  return static_cast<std::int64_t>(RowMemory::bytes(static_cast<std::size_t>(vocabulary)));
}

template <typename Body>
void CpuOps::for_logit_chunks(ConstView h, const FrozenLinear& head, Arena& arena, const Body& body) {
  const std::int64_t chunk = logit_rows(head.out);
  for (std::int64_t first = 0; first < h.rows(); first += chunk) {
    const std::int64_t count = std::min(chunk, h.rows() - first);
    const Arena::Scope scope(arena);
    const View logits = arena.take(DType::f32, count, head.out);
    linear(h.row_range(first, count), head, logits, false);
    body(first, count, logits);
  }
}

void CpuOps::log_prob(ConstView h, const FrozenLinear& head, std::span<const std::int64_t> targets,
                      float temperature, std::span<float> logp, std::span<float> entropy, View d_hidden,
                      Arena& arena) {
  CHECK_EQ(static_cast<std::int64_t>(targets.size()), h.rows());
  const float inverse = 1.0F / temperature;
  for_logit_chunks(h, head, arena, [&](std::int64_t first, std::int64_t count, View logits) {
    View d_logits;
    if (!d_hidden.empty()) d_logits = arena.take(compute_, count, head.out);
    parallel(count, 4, [&](std::int64_t begin, std::int64_t rows) {
      for (std::int64_t r = begin; r < begin + rows; ++r) {
        const auto index = static_cast<std::size_t>(first + r);
        const float* row = logits.row<float>(r);
        const cpu::RowStatistics s = k_.row_statistics(row, head.out, inverse);
        CHECK(targets[index] >= 0 && targets[index] < head.out) << targets[index];
        logp[index] = row_logp(s, row[targets[index]], inverse);
        entropy[index] = row_entropy(s);
        if (d_hidden.empty()) continue;
        // ∂logp/∂logits = (1[i = target] − p_i) / temperature
        const View d_row = d_logits.row_range(r, 1);
        k_.row_exp(row, head.out, inverse, s.maximum, -inverse / s.sum, d_row.data(),
                   compute_ == DType::bf16);
        const float p = std::exp(logp[index]);
        if (compute_ == DType::bf16)
          d_row.row<Bf16>(0)[targets[index]] = to_bf16((1.0F - p) * inverse);
        else
          d_row.row<float>(0)[targets[index]] = (1.0F - p) * inverse;
      }
    });
    if (!d_hidden.empty()) linear_backward(d_logits, head, d_hidden.row_range(first, count), false);
  });
}

void CpuOps::sample(ConstView h, const FrozenLinear& head, std::span<const SampleRequest> requests,
                    std::span<const std::int64_t> suppressed, std::span<SampledToken> tokens, Arena& arena) {
  CHECK(static_cast<std::int64_t>(requests.size()) == h.rows() && tokens.size() == requests.size());
  for_logit_chunks(h, head, arena, [&](std::int64_t first, std::int64_t count, View logits) {
    parallel_pieces(count, 1, [&](std::int64_t begin, std::int64_t rows, cpu::Scratch& scratch) {
      const RowMemory memory(scratch, head.out);
      for (std::int64_t r = begin; r < begin + rows; ++r) {
        const auto index = static_cast<std::size_t>(first + r);
        tokens[index] = sample_row(k_, ConstView(logits).row_range(r, 1).span<const float>(), requests[index],
                                   suppressed, memory);
      }
    });
  });
}

}  // namespace biqa
