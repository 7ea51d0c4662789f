// SPDX-License-Identifier: Apache-2.0
// The inner loops of attention. kernels_impl.h includes them, and its rules hold here too.
#pragma once

#include "ops/cpu/kernel_vectors_impl.h"
#include "ops/cpu/kernels.h"

namespace biqa::cpu::BIQA_KERNEL_NAMESPACE {
namespace {

/// Number of queries in a block: their sums of 16 elements fill half of the registers.
constexpr int kAttendQueries = kVectorLanes / 2;

/// scores[q][16 keys of a page] = Σ_d q[d] · keys[d][·], summed in the order of d.
template <int kQueries>
BIQA_INLINE void page_scores(const float* const* q, int head_dim, const float* keys, Floats* scores) {
#pragma GCC unroll 8
  for (int i = 0; i < kQueries; ++i) scores[i] = Floats{};
  for (int d = 0; d < head_dim; ++d) {
    const Floats k = load(keys + d * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kQueries; ++i) scores[i] += k * q[i][d];
  }
}
template <int kQueries>
BIQA_INLINE void page_scores(const float* const* q, int head_dim, const std::uint16_t* keys, Floats* scores) {
#pragma GCC unroll 8
  for (int i = 0; i < kQueries; ++i) scores[i] = Floats{};
  for (int d = 0; d < head_dim; d += 2) {
    const TwoRows k = load_pairs(keys + d * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kQueries; ++i) scores[i] += k.first * q[i][d];
#pragma GCC unroll 8
    for (int i = 0; i < kQueries; ++i) scores[i] += k.second * q[i][d + 1];
  }
}

/// The values of keys j and j + 1 of a page, columns d to d + 15; j is even.
BIQA_INLINE TwoRows value_rows(const float* values, int j, std::int64_t padded_dim, std::int64_t d) {
  return {load(values + j * padded_dim + d), load(values + (j + 1) * padded_dim + d)};
}
BIQA_INLINE TwoRows value_rows(const std::uint16_t* values, int j, std::int64_t padded_dim, std::int64_t d) {
  return load_pairs(values + j * padded_dim + 2 * d);
}

/// Scales and masks the scores of kQueries queries and keeps the largest of each lane.
template <int kQueries, typename T>
BIQA_INLINE void attend_scores(const AttendBlock& block, int first, std::int64_t page_count,
                               Floats* highest) {
  const auto* keys = static_cast<const T*>(block.keys);
  const std::int64_t* lengths = block.lengths + first;
  const Ints lane = lane_numbers();
  Floats largest[kQueries];
#pragma GCC unroll 8
  for (int i = 0; i < kQueries; ++i) largest[i] = all(kLowest);
  for (std::int64_t p = 0; p < page_count; ++p) {
    const std::int64_t page = block.pages != nullptr ? block.pages[p] : p;
    Floats s[kQueries];
    page_scores<kQueries>(block.q + first, block.head_dim, keys + page * block.page_elements, s);
#pragma GCC unroll 8
    for (int i = 0; i < kQueries; ++i) {
      const auto rest =
          static_cast<std::int32_t>(lengths[i] - p * kLanes < kLanes ? lengths[i] - p * kLanes : kLanes);
      const Floats masked = select(lane < rest, s[i] * block.scale, all(kLowest));
      largest[i] = maximum(largest[i], masked);
      store(block.scores + i * block.scores_stride + p * kLanes, masked);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kQueries; ++i) highest[i] = largest[i];
}

/// Turns the scores of one query into weights that are not yet divided by their sum, and returns the sum.
BIQA_INLINE float attend_weights(float* scores, float top, std::int64_t own_pages, std::int64_t page_count) {
  Floats sums{};
  for (std::int64_t p = 0; p < page_count; ++p) {
    const Floats e = p < own_pages ? exponential(load(scores + p * kLanes) - top) : Floats{};
    sums += e;
    store(scores + p * kLanes, e);
  }
  return sum_of(sums);
}

/// out = weights · values, times `inverse`. Keys are added in order.
template <int kQueries, typename T>
BIQA_INLINE void attend_values(const AttendBlock& block, int first, std::int64_t shortest,
                               std::int64_t longest, const float* inverse) {
  const auto* values = static_cast<const T*>(block.values);
  const std::int64_t* lengths = block.lengths + first;
  const std::int64_t page_count = (longest + kLanes - 1) / kLanes;
  const std::int64_t padded_dim = (block.head_dim + kLanes - 1) / kLanes * kLanes;
  const std::int64_t whole_pages = shortest / kLanes;
  const float* weights[kQueries];
#pragma GCC unroll 8
  for (int i = 0; i < kQueries; ++i) weights[i] = block.scores + i * block.scores_stride;
  for (std::int64_t d = 0; d < padded_dim; d += kLanes) {
    Floats sums[kQueries] = {};
    const auto values_of = [&](std::int64_t p) BIQA_INLINE_LAMBDA {
      return values + (block.pages != nullptr ? block.pages[p] : p) * block.page_elements;
    };
    for (std::int64_t p = 0; p < whole_pages; ++p) {
      const T* v = values_of(p);
      for (int j = 0; j < kLanes; j += 2) {
        const TwoRows rows = value_rows(v, j, padded_dim, d);
#pragma GCC unroll 8
        for (int i = 0; i < kQueries; ++i) sums[i] += rows.first * weights[i][p * kLanes + j];
#pragma GCC unroll 8
        for (int i = 0; i < kQueries; ++i) sums[i] += rows.second * weights[i][p * kLanes + j + 1];
      }
    }
    // These pages may also contain values that a query must not see: later rows, or old content of the page. Their
    // weight is zero, but they may be infinite or NaN, so they must not be multiplied.
    for (std::int64_t p = whole_pages; p < page_count; ++p) {
      const T* v = values_of(p);
      const std::int64_t start = p * kLanes;
      const std::int64_t count = longest - start < kLanes ? longest - start : kLanes;
      for (int j = 0; j < count; ++j) {
        const TwoRows rows = value_rows(v, j & ~1, padded_dim, d);
        const Floats row = (j & 1) == 0 ? rows.first : rows.second;
#pragma GCC unroll 8
        for (int i = 0; i < kQueries; ++i) {
          if (start + j < lengths[i]) sums[i] += row * weights[i][start + j];
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kQueries; ++i) store(block.out[first + i] + d, sums[i] * inverse[i]);
  }
}

template <int kQueries, typename T>
void attend_queries(AttendBlock& block, int first) {
  const std::int64_t* lengths = block.lengths + first;
  std::int64_t shortest = lengths[0];
  std::int64_t longest = 0;
  for (int i = 0; i < kQueries; ++i) {
    shortest = lengths[i] < shortest ? lengths[i] : shortest;
    longest = lengths[i] > longest ? lengths[i] : longest;
  }
  const std::int64_t page_count = (longest + kLanes - 1) / kLanes;
  Floats highest[kQueries];
  attend_scores<kQueries, T>(block, first, page_count, highest);
  float inverse[kQueries];
  for (int i = 0; i < kQueries; ++i) {
    const float top = max_of(highest[i]);
    const float sum = attend_weights(block.scores + i * block.scores_stride, top,
                                     (lengths[i] + kLanes - 1) / kLanes, page_count);
    inverse[i] = 1.0F / sum;
    block.lse[first + i] = top + __builtin_logf(sum);
  }
  attend_values<kQueries, T>(block, first, shortest, longest, inverse);
}
/// As many queries at once as there are registers for their sums, then fewer for the rest.
template <int kQueries, typename T>
void attend_from(AttendBlock& block, int first) {
  for (; first + kQueries <= block.queries; first += kQueries) attend_queries<kQueries, T>(block, first);
  if constexpr (kQueries > 1) attend_from<kQueries / 2, T>(block, first);
}
void attend(AttendBlock& block) {
  if (block.bf16)
    attend_from<kAttendQueries, std::uint16_t>(block, 0);
  else
    attend_from<kAttendQueries, float>(block, 0);
}

void softmax(ScoreRow& row) {
  const std::int64_t pages = (row.length + kLanes - 1) / kLanes;
  Floats highest = all(kLowest);
  for (std::int64_t p = 0; p < pages; ++p) {
    Floats s = load(row.scores + p * kLanes) * row.scale;
    if (p + 1 == pages) s = first_of(s, row.length - p * kLanes, all(kLowest));
    highest = maximum(highest, s);
    store(row.scores + p * kLanes, s);
  }
  const float top = max_of(highest);
  Floats sums{};
  for (std::int64_t p = 0; p < pages; ++p) {
    const Floats e = exponential(load(row.scores + p * kLanes) - top);
    sums += e;
    store(row.weights + p * kLanes, e);
  }
  for (std::int64_t p = pages; p * kLanes < row.padded_length; ++p) store(row.weights + p * kLanes, Floats{});
  row.sum = sum_of(sums);
  row.lse = top + __builtin_logf(row.sum);
}

void score_gradients(const ScoreGradients& g) {
  const Ints lane = lane_numbers();
  for (int pair = 0; pair < 16; ++pair) {
    Words weights[2];
    Words ds[2];
    for (int i = 0; i < 2; ++i) {
      const int q = 2 * pair + i;
      const auto rest = static_cast<std::int32_t>(g.lengths[q] - g.first_key);
      const Floats s = load(g.scores + q * kLanes) * g.scale - g.lse[q];
      const Floats e = select(lane < rest, exponential(s), Floats{});
      const Floats d = e * (load(g.d_weights + q * kLanes) - g.delta[q]) * g.scale;
      weights[i] = bf16_bits(e);
      ds[i] = bf16_bits(select(lane < rest, d, Floats{}));
      write(g.rows + q * g.rows_stride, narrowed(ds[i]));
    }
    write(g.weight_pairs + pair * kLanes, weights[0] | (weights[1] << 16));
    write(g.d_pairs + pair * kLanes, ds[0] | (ds[1] << 16));
  }
}

/// Probabilities of the keys in the first pages, and gradients of their scores.
template <int kQueries>
void backward_scores(AttendBackwardBlock& block, std::int64_t page_count, int first) {
  const Ints lane = lane_numbers();
  for (; first + kQueries <= block.queries; first += kQueries) {
    for (std::int64_t p = 0; p < page_count; ++p) {
      const std::int64_t offset = p * kLanes * block.head_dim;
      Floats s[kQueries];
      Floats dp[kQueries];
      page_scores<kQueries>(block.q + first, block.head_dim, block.keys_transposed + offset, s);
      page_scores<kQueries>(block.d_out + first, block.head_dim, block.values_transposed + offset, dp);
#pragma GCC unroll 8
      for (int i = 0; i < kQueries; ++i) {
        const int query = first + i;
        const auto rest = static_cast<std::int32_t>(block.lengths[query] - p * kLanes);
        const Floats e = select(lane < rest, exponential(s[i] * block.scale - block.lse[query]), Floats{});
        const Floats d = e * (dp[i] - block.delta[query]) * block.scale;
        float* probability = block.scores + query * block.scores_stride;
        store(probability + p * kLanes, e);
        store(probability + kQueryBlock * block.scores_stride + p * kLanes, select(lane < rest, d, Floats{}));
      }
    }
  }
  if constexpr (kQueries > 1) backward_scores<kQueries / 2>(block, page_count, first);
}

// A query must not see the keys from its length on. Their weights are zero, but the keys, or the query itself, may be
// infinite or NaN, so they must not be multiplied. Up to the shortest length of a block, every query sees every key.

/// d_q = d_scores · keys, summed in the order of the keys.
template <int kQueries>
void backward_queries(AttendBackwardBlock& block, std::int64_t shortest, std::int64_t longest, int first) {
  for (; first + kQueries <= block.queries; first += kQueries) {
    const float* d_scores = block.scores + (kQueryBlock + first) * block.scores_stride;
    const std::int64_t* lengths = block.lengths + first;
    for (std::int64_t d = 0; d < block.padded_dim; d += kVectorLanes) {
      FloatVector sums[kQueries] = {};
      for (std::int64_t key = 0; key < shortest; ++key) {
        const FloatVector k = load_vector(block.keys + key * block.padded_dim + d);
#pragma GCC unroll 8
        for (int i = 0; i < kQueries; ++i) sums[i] += k * d_scores[i * block.scores_stride + key];
      }
      for (std::int64_t key = shortest; key < longest; ++key) {
        const FloatVector k = load_vector(block.keys + key * block.padded_dim + d);
#pragma GCC unroll 8
        for (int i = 0; i < kQueries; ++i) {
          if (key < lengths[i]) sums[i] += k * d_scores[i * block.scores_stride + key];
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kQueries; ++i) store_vector(block.d_q[first + i] + d, sums[i]);
    }
  }
  if constexpr (kQueries > 1) backward_queries<kQueries / 2>(block, shortest, longest, first);
}

/// target [keys, padded_dim] += weights [queries, keys]ᵀ · rows [queries, padded_dim] for kKeys keys and kVectors vectors of
/// columns, summed in the order of the queries. `key`: the first key; with one key, only queries that see it are added.
template <int kKeys, int kVectors>
BIQA_INLINE void add_weighted_rows(const AttendBackwardBlock& block, const float* weights,
                                   const float* const* rows, std::int64_t key, std::int64_t column,
                                   float* target) {
  FloatVector sums[kKeys][kVectors];
#pragma GCC unroll 8
  for (int k = 0; k < kKeys; ++k) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      sums[k][v] = load_vector(target + (key + k) * block.padded_dim + column + v * kVectorLanes);
  }
  for (int i = 0; i < block.queries; ++i) {
    if (kKeys == 1 && key >= block.lengths[i]) continue;
    FloatVector row[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) row[v] = load_vector(rows[i] + column + v * kVectorLanes);
#pragma GCC unroll 8
    for (int k = 0; k < kKeys; ++k) {
      const float weight = weights[i * block.scores_stride + key + k];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[k][v] += row[v] * weight;
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kKeys; ++k) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      store_vector(target + (key + k) * block.padded_dim + column + v * kVectorLanes, sums[k][v]);
  }
}
template <int kKeys>
BIQA_INLINE void add_weighted_rows(const AttendBackwardBlock& block, const float* weights,
                                   const float* const* rows, std::int64_t key, float* target) {
  std::int64_t column = 0;
  for (; column + 2 * kVectorLanes <= block.padded_dim; column += 2 * kVectorLanes)
    add_weighted_rows<kKeys, 2>(block, weights, rows, key, column, target);
  for (; column < block.padded_dim; column += kVectorLanes)
    add_weighted_rows<kKeys, 1>(block, weights, rows, key, column, target);
}
void backward_keys(const AttendBackwardBlock& block, std::int64_t shortest, std::int64_t longest,
                   const float* weights, const float* const* rows, float* target) {
  std::int64_t key = 0;
  for (; key + 4 <= shortest; key += 4) add_weighted_rows<4>(block, weights, rows, key, target);
  for (; key < longest; ++key) add_weighted_rows<1>(block, weights, rows, key, target);
}

void attend_backward(AttendBackwardBlock& block) {
  std::int64_t shortest = block.lengths[0];
  std::int64_t longest = 0;
  for (int i = 0; i < block.queries; ++i) {
    shortest = block.lengths[i] < shortest ? block.lengths[i] : shortest;
    longest = block.lengths[i] > longest ? block.lengths[i] : longest;
  }
  backward_scores<kAttendQueries>(block, (longest + kLanes - 1) / kLanes, 0);
  backward_queries<kQueryBlock>(block, shortest, longest, 0);
  const float* d_scores = block.scores + kQueryBlock * block.scores_stride;
  backward_keys(block, shortest, longest, d_scores, block.q, block.d_keys);
  backward_keys(block, shortest, longest, block.scores, block.d_out, block.d_values);
}

}  // namespace
}  // namespace biqa::cpu::BIQA_KERNEL_NAMESPACE
