// SPDX-License-Identifier: Apache-2.0
// One block samples from one row of logits. It computes the weights exp(z − maximum). Selection sets the weights
// outside of top-k and top-p to 0. Then the draw is looked up in the cumulative sum of the weights.
#include <cstddef>
#include <cstdint>

#include "ops/cuda/head.h"
#include "ops/cuda/kernel_support.h"
#include "ops/cuda/reduce.h"
#include "ops/cuda/select.h"
#include "ops/cuda/softmax_row.h"

namespace biqa::cuda {
namespace {

constexpr int kMaxWarps = kMaxRowThreads / kWarpSize;
constexpr int kDrawBlock = 256;  // ids

/// Top-p compares sums of weights. A sum of floats in the order of size would need a sort, so integers are summed. The
/// unit is 2^-kMassBits of the largest weight's power of two, and a weight is rounded down to it. So the relative error
/// of the total is at most vocabulary · 2^-kMassBits (9e-9 for 152,064 ids). The total fits into 64 bits for
/// kMaxVocabulary ids.
constexpr int kMassBits = 44;
constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << (64 - kMassBits - 1);
constexpr int kSignificandBits = 23;
constexpr float kLargestFloat = std::numeric_limits<float>::max();

/// Shared memory of a row. The sums of the draw's blocks follow it.
struct alignas(16) RowMemory {
  float floats[kMaxWarps];
  std::uint64_t integers[kMaxWarps];
  Histogram histogram;
  float weights[kDrawBlock];
  double rest;
  int block;
};

__device__ bool is_finite(float x) {
  return fabsf(x) <= kLargestFloat;
}

/// The first of the largest logits whose weight is not negative, −1 if there is none; the same in every thread.
__device__ int first_of_largest(const float* logits, const float* weights, int vocabulary,
                                RowMemory& memory) {
  // The larger element has the larger logit, or the lower id if logits are equal. Adding 0 turns −0 into 0.
  std::uint64_t best = 0;
  for (int i = thread_index(); i < vocabulary; i += block_threads()) {
    if (weights[i] < 0) continue;
    const unsigned bits = __float_as_uint(logits[i] + 0.0F);
    const unsigned ascending = bits >> 31 != 0 ? ~bits : bits | 0x80000000U;
    const std::uint64_t rank = static_cast<std::uint64_t>(ascending) << 32 | ~static_cast<unsigned>(i);
    best = Larger()(best, rank);
  }
  best = combine_in_block(best, std::uint64_t{0}, memory.integers, Larger());
  return best == 0 ? -1 : static_cast<int>(~static_cast<unsigned>(best));
}

/// Weights below the k-th largest become 0. Weights are not negative, so their bits have their order.
__device__ void keep_top_k(int k, float* weights, int vocabulary, RowMemory& memory) {
  const auto bits = [&](int i) { return __float_as_uint(weights[i]); };
  const auto one = [](int) { return std::uint64_t{1}; };
  const Selection smallest =
      select(vocabulary, bits, one, static_cast<std::uint64_t>(vocabulary - k), memory.histogram);
  for (int i = thread_index(); i < vocabulary; i += block_threads()) {
    if (bits(i) < smallest.key) weights[i] = 0.0F;
  }
  __syncthreads();
}

__device__ int exponent_of(unsigned bits) {
  const int exponent = static_cast<int>(bits >> kSignificandBits);
  return exponent == 0 ? 1 : exponent;  // subnormal
}
__device__ std::uint64_t mass_of(unsigned bits, int largest_exponent) {
  const unsigned fraction = bits % (1U << kSignificandBits);
  const std::uint64_t significand = bits == fraction ? fraction : fraction | 1U << kSignificandBits;
  const int shift = kMassBits - kSignificandBits + exponent_of(bits) - largest_exponent;
  if (shift >= 0) return significand << shift;
  return shift > -64 ? significand >> -shift : 0;
}

/// Weights become 0 in ascending order (equal weights in order of ids), while their sum is at most 1 − p of the total.
/// The last weight always stays.
__device__ void keep_top_p(float p, float* weights, int vocabulary, RowMemory& memory) {
  const auto bits = [&](int i) { return __float_as_uint(weights[i]); };
  unsigned largest = 0;
  for (int i = thread_index(); i < vocabulary; i += block_threads()) largest = Larger()(largest, bits(i));
  largest = static_cast<unsigned>(
      combine_in_block(static_cast<std::uint64_t>(largest), std::uint64_t{0}, memory.integers, Larger()));
  if (largest == 0) return;  // nothing may be sampled
  const int exponent = exponent_of(largest);
  const auto mass = [&](int i) { return mass_of(bits(i), exponent); };
  std::uint64_t total = 0;
  for (int i = thread_index(); i < vocabulary; i += block_threads()) total += mass(i);
  total = combine_in_block(total, std::uint64_t{0}, memory.integers, Sum());
  const double dropped = (1.0 - static_cast<double>(p)) * static_cast<double>(total);
  std::uint64_t limit = total - 1;
  if (dropped < static_cast<double>(limit)) limit = static_cast<std::uint64_t>(dropped);

  const Selection smallest = select(vocabulary, bits, mass, limit, memory.histogram);
  const std::uint64_t dropped_equals = (limit - smallest.below) / mass_of(smallest.key, exponent);
  unsigned first_equal = 0;  // the first of the equal weights that stays
  if (dropped_equals > 0) {
    const auto id = [](int i) { return static_cast<unsigned>(i); };
    const auto is_equal = [&](int i) { return std::uint64_t{bits(i) == smallest.key}; };
    first_equal = select(vocabulary, id, is_equal, dropped_equals, memory.histogram).key;
  }
  for (int i = thread_index(); i < vocabulary; i += block_threads()) {
    const unsigned own = bits(i);
    if (own < smallest.key || (own == smallest.key && static_cast<unsigned>(i) < first_equal))
      weights[i] = 0.0F;
  }
  __syncthreads();
}

/// Thread 0 finds the block of ids in which the cumulative weight passes uniform · total; −1 if all weights are 0. If
/// rounding moves the draw past the end, it takes the last block with a weight.
__device__ void choose_block(double uniform, const double* sums, int blocks, RowMemory& memory) {
  double total = 0;
  for (int b = 0; b < blocks; ++b) total += sums[b];
  double rest = uniform * total;
  memory.block = -1;
  for (int b = 0; b < blocks; ++b) {
    if (sums[b] <= 0) continue;
    memory.block = b;
    memory.rest = rest;
    if (rest < sums[b]) break;
    rest -= sums[b];
  }
}

/// The first id whose cumulative weight exceeds uniform · total, −1 if all weights are 0. Only thread 0 gets it.
__device__ int draw(double uniform, const float* weights, int vocabulary, RowMemory& memory) {
  auto* sums = reinterpret_cast<double*>(&memory + 1);
  const int blocks = (vocabulary + kDrawBlock - 1) / kDrawBlock;
  for (int b = thread_index() / kWarpSize; b < blocks; b += block_threads() / kWarpSize) {
    const int end = (b + 1) * kDrawBlock < vocabulary ? (b + 1) * kDrawBlock : vocabulary;
    double sum = 0;
    for (int i = b * kDrawBlock + thread_index() % kWarpSize; i < end; i += kWarpSize)
      sum += static_cast<double>(weights[i]);
    sum = sum_of_warp(sum);
    if (thread_index() % kWarpSize == 0) sums[b] = sum;
  }
  __syncthreads();
  if (thread_index() == 0) choose_block(uniform, sums, blocks, memory);
  __syncthreads();
  if (memory.block < 0) return -1;
  const int first = memory.block * kDrawBlock;
  const int count = vocabulary - first < kDrawBlock ? vocabulary - first : kDrawBlock;
  for (int i = thread_index(); i < count; i += block_threads()) memory.weights[i] = weights[first + i];
  __syncthreads();
  int id = -1;
  if (thread_index() == 0) {
    double rest = memory.rest;
    for (int i = 0; i < count && (id < 0 || rest >= 0); ++i) {
      if (memory.weights[i] <= 0) continue;
      id = first + i;
      rest -= static_cast<double>(memory.weights[i]);
    }
  }
  return id;
}

__global__ void sample_kernel(Rows<const float> logits, int vocabulary, const DeviceSampleRequest* requests,
                              DeviceSpan<std::int64_t> suppressed, Rows<float> weights,
                              DeviceSampledToken* tokens) {
  RowMemory& memory = *dynamic_shared<RowMemory>();
  const float* row = logits[blockIdx.x];
  float* row_weights = weights[blockIdx.x];
  const DeviceSampleRequest request = requests[blockIdx.x];
  const bool greedy = request.greedy != 0;
  const float inverse = greedy ? 1.0F : 1.0F / request.temperature;
  const RowStatistics s = row_statistics(row, vocabulary, inverse, memory.floats);
  if (!is_finite(s.sum)) {  // also not finite if the maximum is infinite, because inf − inf is NaN
    if (thread_index() == 0) tokens[blockIdx.x] = DeviceSampledToken{};
    return;
  }
  for (int i = thread_index(); i < vocabulary; i += block_threads())
    row_weights[i] = expf(relative_logit(row[i], inverse, s.maximum));
  __syncthreads();
  for (int i = thread_index(); i < suppressed.size; i += block_threads())
    row_weights[suppressed.data[i]] = greedy ? -1.0F : 0.0F;
  __syncthreads();
  int id = -1;
  if (greedy) {
    id = first_of_largest(row, row_weights, vocabulary, memory);
  } else {
    if (request.top_k > 0 && request.top_k < vocabulary)
      keep_top_k(request.top_k, row_weights, vocabulary, memory);
    if (request.top_p < 1.0F) keep_top_p(request.top_p, row_weights, vocabulary, memory);
    id = draw(request.uniform, row_weights, vocabulary, memory);
  }
  if (thread_index() != 0) return;
  DeviceSampledToken token;
  token.id = id;
  token.finite = 1;
  token.entropy = row_entropy(s);
  if (id >= 0) token.logp = row_logp(s, row[id], inverse);
  tokens[blockIdx.x] = token;
}

__global__ void write_sampled_kernel(const DeviceSampledToken* tokens, DeviceSpan<SampledRow> rows,
                                     std::int64_t* ids) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads() + thread_index();
  if (i >= rows.size) return;
  const SampledRow row = rows.data[i];
  const std::int64_t id = tokens[row.pick].id;
  ids[row.row] = id < 0 ? 0 : id;  // no token is an error, which the host finds when it waits
}

}  // namespace

void write_sampled(const DeviceSampledToken* tokens, DeviceSpan<SampledRow> rows, std::int64_t* ids,
                   const Stream& stream) {
  if (rows.empty()) return;
  constexpr unsigned kThreads = 128;
  const auto blocks = static_cast<unsigned>((rows.size + kThreads - 1) / kThreads);
  launch(write_sampled_kernel, dim3(blocks), dim3(kThreads), 0, stream, tokens, rows, ids);
}

void sample(ConstView logits, DeviceSpan<DeviceSampleRequest> requests, DeviceSpan<std::int64_t> suppressed,
            View weights, DeviceSampledToken* tokens, const Stream& stream) {
  CHECK(requests.size == logits.rows() && weights.rows() == logits.rows() &&
        weights.columns() == logits.columns())
      << logits.rows() << "x" << logits.columns() << " logits, " << requests.size << " requests, weights "
      << weights.rows() << "x" << weights.columns();
  if (logits.empty()) return;
  CHECK_LE(logits.columns(), kMaxVocabulary);
  const std::int64_t blocks = (logits.columns() + kDrawBlock - 1) / kDrawBlock;
  const std::size_t shared_bytes = sizeof(RowMemory) + static_cast<std::size_t>(blocks) * sizeof(double);
  launch(sample_kernel, grid_size(logits.rows()), static_cast<unsigned>(row_threads(logits.columns())),
         shared_bytes, stream, rows_of<float>(logits), static_cast<int>(logits.columns()), requests.data,
         suppressed, rows_of<float>(weights), tokens);
}

}  // namespace biqa::cuda
