// SPDX-License-Identifier: Apache-2.0
// The inner loops of attention. kernels_impl.h includes them, and its rules hold here too.
#pragma once

#include "ops/cpu/kernel_vectors_impl.h"
#include "ops/cpu/kernels.h"

namespace biqa::cpu::BIQA_KERNEL_NAMESPACE {
namespace {

/// scores[q][16 keys of a page] = Σ_d q[d] · keys[d][·], summed in the order of d.
template <int kQueries>
BIQA_INLINE void page_scores(const float* const* q, int head_dim, const float* keys, Floats* scores) {
  for (int i = 0; i < kQueries; ++i) scores[i] = Floats{};
  for (int d = 0; d < head_dim; ++d) {
    const Floats k = load(keys + d * kLanes);
    for (int i = 0; i < kQueries; ++i) scores[i] += k * q[i][d];
  }
}
template <int kQueries>
BIQA_INLINE void page_scores(const float* const* q, int head_dim, const std::uint16_t* keys, Floats* scores) {
  for (int i = 0; i < kQueries; ++i) scores[i] = Floats{};
  for (int d = 0; d < head_dim; d += 2) {
    const TwoRows k = load_pairs(keys + d * kLanes);
    for (int i = 0; i < kQueries; ++i) scores[i] += k.first * q[i][d];
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

template <int kQueries, typename T>
void attend_queries(AttendBlock& block, int first) {
  const float* const* q = block.q + first;
  const std::int64_t* lengths = block.lengths + first;
  const auto* keys = static_cast<const T*>(block.keys);
  const auto* values = static_cast<const T*>(block.values);
  float* scores[kQueries];
  Floats highest[kQueries];
  std::int64_t shortest = lengths[0];
  std::int64_t longest = 0;
  for (int i = 0; i < kQueries; ++i) {
    scores[i] = block.scores + i * block.scores_stride;
    highest[i] = all(kLowest);
    shortest = lengths[i] < shortest ? lengths[i] : shortest;
    longest = lengths[i] > longest ? lengths[i] : longest;
  }
  const std::int64_t page_count = (longest + kLanes - 1) / kLanes;
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (std::int64_t p = 0; p < page_count; ++p) {
    const std::int64_t page = block.pages != nullptr ? block.pages[p] : p;
    Floats s[kQueries];
    page_scores<kQueries>(q, block.head_dim, keys + page * block.page_elements, s);
    for (int i = 0; i < kQueries; ++i) {
      const auto rest =
          static_cast<std::int32_t>(lengths[i] - p * kLanes < kLanes ? lengths[i] - p * kLanes : kLanes);
      const Floats masked = lane < rest ? s[i] * block.scale : all(kLowest);
      highest[i] = maximum(highest[i], masked);
      store(scores[i] + p * kLanes, masked);
    }
  }
  float inverse[kQueries];
  for (int i = 0; i < kQueries; ++i) {
    const float top = max_of(highest[i]);
    Floats sums{};
    const std::int64_t own_pages = (lengths[i] + kLanes - 1) / kLanes;
    for (std::int64_t p = 0; p < page_count; ++p) {
      const Floats e = p < own_pages ? exponential(load(scores[i] + p * kLanes) - top) : Floats{};
      sums += e;
      store(scores[i] + p * kLanes, e);
    }
    const float sum = sum_of(sums);
    inverse[i] = 1.0F / sum;
    block.lse[first + i] = top + __builtin_logf(sum);
  }
  const std::int64_t padded_dim = (block.head_dim + kLanes - 1) / kLanes * kLanes;
  const std::int64_t whole_pages = shortest / kLanes;
  for (std::int64_t d = 0; d < padded_dim; d += kLanes) {
    Floats sums[kQueries] = {};
    const auto values_of = [&](std::int64_t p) {
      return values + (block.pages != nullptr ? block.pages[p] : p) * block.page_elements;
    };
    for (std::int64_t p = 0; p < whole_pages; ++p) {
      const T* v = values_of(p);
      for (int j = 0; j < kLanes; j += 2) {
        const TwoRows rows = value_rows(v, j, padded_dim, d);
        for (int i = 0; i < kQueries; ++i) sums[i] += rows.first * scores[i][p * kLanes + j];
        for (int i = 0; i < kQueries; ++i) sums[i] += rows.second * scores[i][p * kLanes + j + 1];
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
        for (int i = 0; i < kQueries; ++i) {
          if (start + j < lengths[i]) sums[i] += row * scores[i][start + j];
        }
      }
    }
    for (int i = 0; i < kQueries; ++i) store(block.out[first + i] + d, sums[i] * inverse[i]);
  }
}
template <typename T>
void attend_typed(AttendBlock& block) {
  int i = 0;
  for (; i + 8 <= block.queries; i += 8) attend_queries<8, T>(block, i);
  for (; i + 4 <= block.queries; i += 4) attend_queries<4, T>(block, i);
  for (; i + 2 <= block.queries; i += 2) attend_queries<2, T>(block, i);
  for (; i < block.queries; ++i) attend_queries<1, T>(block, i);
}
void attend(AttendBlock& block) {
  if (block.bf16)
    attend_typed<std::uint16_t>(block);
  else
    attend_typed<float>(block);
}

void softmax(ScoreRow& row) {
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const std::int64_t pages = (row.length + kLanes - 1) / kLanes;
  Floats highest = all(kLowest);
  for (std::int64_t p = 0; p < pages; ++p) {
    Floats s = load(row.scores + p * kLanes) * row.scale;
    if (p + 1 == pages) s = lane < static_cast<std::int32_t>(row.length - p * kLanes) ? s : all(kLowest);
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
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int pair = 0; pair < 16; ++pair) {
    Words weights[2];
    Words ds[2];
    for (int i = 0; i < 2; ++i) {
      const int q = 2 * pair + i;
      const auto rest = static_cast<std::int32_t>(g.lengths[q] - g.first_key);
      const Floats s = load(g.scores + q * kLanes) * g.scale - g.lse[q];
      const Floats e = lane < rest ? exponential(s) : Floats{};
      const Floats d = e * (load(g.d_weights + q * kLanes) - g.delta[q]) * g.scale;
      weights[i] = bf16_bits(e);
      ds[i] = bf16_bits(lane < rest ? d : Floats{});
      const Shorts row = __builtin_convertvector(ds[i], Shorts);
      __builtin_memcpy(g.rows + q * g.rows_stride, &row, sizeof row);
    }
    const Words weight_pair = weights[0] | (weights[1] << 16);
    const Words d_pair = ds[0] | (ds[1] << 16);
    __builtin_memcpy(g.weight_pairs + pair * kLanes, &weight_pair, sizeof weight_pair);
    __builtin_memcpy(g.d_pairs + pair * kLanes, &d_pair, sizeof d_pair);
  }
}

template <int kQueries>
void attend_backward_queries(AttendBackwardBlock& block, int first) {
  std::int64_t longest = 0;
  for (int i = 0; i < kQueries; ++i) {
    longest = block.lengths[first + i] > longest ? block.lengths[first + i] : longest;
  }
  const std::int64_t page_count = (longest + kLanes - 1) / kLanes;
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  float* probability[kQueries];
  float* d_score[kQueries];
  for (int i = 0; i < kQueries; ++i) {
    probability[i] = block.scores + i * block.scores_stride;
    d_score[i] = block.scores + (kQueryBlock + i) * block.scores_stride;
  }
  for (std::int64_t p = 0; p < page_count; ++p) {
    const std::int64_t offset = p * kLanes * block.head_dim;
    Floats s[kQueries];
    Floats dp[kQueries];
    page_scores<kQueries>(block.q + first, block.head_dim, block.keys_transposed + offset, s);
    page_scores<kQueries>(block.d_out + first, block.head_dim, block.values_transposed + offset, dp);
    for (int i = 0; i < kQueries; ++i) {
      const auto rest = static_cast<std::int32_t>(block.lengths[first + i] - p * kLanes);
      const Floats e = lane < rest ? exponential(s[i] * block.scale - block.lse[first + i]) : Floats{};
      const Floats d = e * (dp[i] - block.delta[first + i]) * block.scale;
      store(probability[i] + p * kLanes, e);
      store(d_score[i] + p * kLanes, lane < rest ? d : Floats{});
    }
  }
  for (std::int64_t d = 0; d < block.padded_dim; d += kLanes) {
    Floats sums[kQueries] = {};
    Floats queries[kQueries];
    Floats d_outs[kQueries];
    const std::int64_t count = block.head_dim - d < kLanes ? block.head_dim - d : kLanes;
    for (int i = 0; i < kQueries; ++i) {
      queries[i] = load_some(block.q[first + i] + d, count);
      d_outs[i] = load(block.d_out[first + i] + d);
    }
    for (std::int64_t key = 0; key < longest; ++key) {
      const Floats k = load(block.keys + key * block.padded_dim + d);
      float* d_key = block.d_keys + key * block.padded_dim + d;
      float* d_value = block.d_values + key * block.padded_dim + d;
      Floats dk = load(d_key);
      Floats dv = load(d_value);
      for (int i = 0; i < kQueries; ++i) {
        sums[i] += k * d_score[i][key];
        dk += queries[i] * d_score[i][key];
        dv += d_outs[i] * probability[i][key];
      }
      store(d_key, dk);
      store(d_value, dv);
    }
    for (int i = 0; i < kQueries; ++i) store(block.d_q[first + i] + d, sums[i]);
  }
}
void attend_backward(AttendBackwardBlock& block) {
  int i = 0;
  for (; i + 4 <= block.queries; i += 4) attend_backward_queries<4>(block, i);
  for (; i < block.queries; ++i) attend_backward_queries<1>(block, i);
}

}  // namespace
}  // namespace biqa::cpu::BIQA_KERNEL_NAMESPACE
