// SPDX-License-Identifier: Apache-2.0
// Two passes without atomics. In the first, a warp computes d_q of one query row and head by going over the keys. In
// the second, a warp computes d_k and d_v of one key row and kv head by going over the queries. Both passes compute the
// same weights and derivatives of scores, 64 at a time, two per lane. Then each lane adds to the sums of every 32nd
// dimension.
#include <cmath>
#include <limits>

#include "ops/cuda/attention.h"
#include "ops/cuda/kernel_support.h"

namespace biqa::cuda {
namespace {

constexpr int kBlockScores = 64;
constexpr int kMaxHeadDim = 256;
constexpr int kDimsPerLane = kMaxHeadDim / kWarpSize;
constexpr int kWarps = 4;  // of a block

struct Shape {
  int heads, kv_heads, head_dim;
  float scale;
};

template <typename Kv>
__device__ float rounded(float x) {
  return value_of(rounded_to<Kv>(x));
}

/// Of one query and one key.
struct Score {
  float weight;      // p = exp(q·k · scale − lse)
  float derivative;  // of the loss by q·k: p · (d_out·v − d_out·out) · scale
};
template <typename Kv, typename Output>
__device__ Score score_of(const float* q, const float* k, const float* v, const Output* out,
                          const float* d_out, float lse, const Shape& shape) {
  float product = 0.0F;
  float difference = 0.0F;
  for (int d = 0; d < shape.head_dim; ++d) {
    product = fmaf(q[d], rounded<Kv>(k[d]), product);
    difference = fmaf(d_out[d], rounded<Kv>(v[d]) - value_of(out[d]), difference);
  }
  const float weight = expf(product * shape.scale - lse);
  return {weight, weight * difference * shape.scale};
}

/// The warp's place in a grid over table entries and heads.
struct EntryHead {
  std::int64_t entry;
  int head;
};
__device__ EntryHead entry_and_head(int heads) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kWarps + thread_index() / kWarpSize;
  return {pair / heads, static_cast<int>(pair % heads)};
}
__device__ float* warp_memory(int floats) {
  return dynamic_shared<float>() + thread_index() / kWarpSize * floats;
}

struct Inputs {
  Rows<const float> q, k, v, lse, d_out;
};

std::size_t query_memory_floats(std::int64_t head_dim) {
  return static_cast<std::size_t>(3 * head_dim + kBlockScores);
}
template <typename Kv, typename Output>
__global__ void query_kernel(Inputs in, Rows<const Output> all_out, Shape shape,
                             DeviceSpan<QueryKeys> queries, Rows<float> d_q) {
  const auto [entry, head] = entry_and_head(shape.heads);
  if (entry >= queries.size) return;
  const int lane = thread_index() % kWarpSize;
  const int dim = shape.head_dim;
  float* q = warp_memory(3 * dim + kBlockScores);
  float* d_out = q + dim;
  float* out = d_out + dim;
  float* derivatives = out + dim;
  const QueryKeys query = queries.data[entry];
  for (int d = lane; d < dim; d += kWarpSize) {
    q[d] = in.q[query.query_row][head * dim + d];
    d_out[d] = in.d_out[query.query_row][head * dim + d];
    out[d] = value_of(all_out[query.query_row][head * dim + d]);
  }
  __syncwarp();
  const float lse = in.lse[query.query_row][head];
  const int column = head / (shape.heads / shape.kv_heads) * dim;
  const int length = query.prompt_keys + query.own_keys;
  const auto key_row = [&](int position) {
    return position < query.prompt_keys ? query.prompt_first + position
                                        : query.own_first + position - query.prompt_keys;
  };
  float sums[kDimsPerLane]{};
  for (int first = 0; first < length; first += kBlockScores) {
    const int count = length - first < kBlockScores ? length - first : kBlockScores;
    for (int i = lane; i < count; i += kWarpSize) {
      const int row = key_row(first + i);
      derivatives[i] =
          score_of<Kv>(q, in.k[row] + column, in.v[row] + column, out, d_out, lse, shape).derivative;
    }
    __syncwarp();
    for (int i = 0; i < count; ++i) {
      const float* key = in.k[key_row(first + i)] + column;
      for (int j = 0; j < kDimsPerLane; ++j) {
        const int d = lane + j * kWarpSize;
        if (d < dim) sums[j] = fmaf(derivatives[i], rounded<Kv>(key[d]), sums[j]);
      }
    }
    __syncwarp();  // the next block overwrites the derivatives
  }
  for (int j = 0; j < kDimsPerLane; ++j) {
    const int d = lane + j * kWarpSize;
    if (d < dim) d_q[query.query_row][head * dim + d] = sums[j];
  }
}

/// The sums of a key's warp. A lane has the dimensions lane, lane + 32, …
struct KeySums {
  float d_key[kDimsPerLane]{};
  float d_value[kDimsPerLane]{};
};
/// Shared memory of a key's warp.
struct KeyMemory {
  float* key;     // [head_dim]
  float* value;   // [head_dim]
  Score* scores;  // [kBlockScores]
};
std::size_t key_memory_floats(std::int64_t head_dim) {
  return static_cast<std::size_t>(2 * head_dim + 2 * kBlockScores);
}
__device__ KeyMemory key_memory(int head_dim) {
  float* own = warp_memory(2 * head_dim + 2 * kBlockScores);
  return {own + 2 * kBlockScores, own + 2 * kBlockScores + head_dim, reinterpret_cast<Score*>(own)};
}

/// Adds the contributions of consecutive query rows to the key. The order is row by row, and within a row by the heads
/// that share the key.
template <typename Kv, typename Output>
__device__ void add_queries(const Inputs& in, Rows<const Output> out, const Shape& shape, QueryRange range,
                            int kv_head, const KeyMemory& memory, KeySums& sums) {
  const int lane = thread_index() % kWarpSize;
  const int sharing = shape.heads / shape.kv_heads;
  const int pairs = range.count * sharing;
  for (int first = 0; first < pairs; first += kBlockScores) {
    const int count = pairs - first < kBlockScores ? pairs - first : kBlockScores;
    for (int i = lane; i < count; i += kWarpSize) {
      const int row = range.first + (first + i) / sharing;
      const int head = kv_head * sharing + (first + i) % sharing;
      const int column = head * shape.head_dim;
      memory.scores[i] = score_of<Kv>(in.q[row] + column, memory.key, memory.value, out[row] + column,
                                      in.d_out[row] + column, in.lse[row][head], shape);
    }
    __syncwarp();
    for (int i = 0; i < count; ++i) {
      const Score score = memory.scores[i];
      const int row = range.first + (first + i) / sharing;
      const int column = (kv_head * sharing + (first + i) % sharing) * shape.head_dim;
      for (int j = 0; j < kDimsPerLane; ++j) {
        const int d = lane + j * kWarpSize;
        if (d >= shape.head_dim) continue;
        sums.d_key[j] = fmaf(score.derivative, in.q[row][column + d], sums.d_key[j]);
        sums.d_value[j] = fmaf(score.weight, in.d_out[row][column + d], sums.d_value[j]);
      }
    }
    __syncwarp();  // the next block overwrites the scores
  }
}

template <typename Kv, typename Output>
__global__ void key_kernel(Inputs in, Rows<const Output> out, Shape shape, DeviceSpan<KeyQueries> keys,
                           const QueryRange* ranges, Rows<float> d_k, Rows<float> d_v) {
  const auto [entry, kv_head] = entry_and_head(shape.kv_heads);
  if (entry >= keys.size) return;
  const int lane = thread_index() % kWarpSize;
  const int column = kv_head * shape.head_dim;
  const KeyQueries key = keys.data[entry];
  const KeyMemory memory = key_memory(shape.head_dim);
  for (int d = lane; d < shape.head_dim; d += kWarpSize) {
    memory.key[d] = in.k[key.key_row][column + d];
    memory.value[d] = in.v[key.key_row][column + d];
  }
  __syncwarp();
  KeySums sums;
  add_queries<Kv>(in, out, shape, key.first, kv_head, memory, sums);
  for (int r = key.range_begin; r < key.range_end; ++r)
    add_queries<Kv>(in, out, shape, ranges[r], kv_head, memory, sums);
  for (int j = 0; j < kDimsPerLane; ++j) {
    const int d = lane + j * kWarpSize;
    if (d >= shape.head_dim) continue;
    d_k[key.key_row][column + d] = sums.d_key[j];
    d_v[key.key_row][column + d] = sums.d_value[j];
  }
}

void check_shapes(ConstView q, ConstView k, ConstView out, ConstView lse, const HeadShape& shape) {
  CHECK(shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0)
      << shape.heads << " heads, " << shape.kv_heads << " kv heads";
  CHECK(shape.head_dim > 0 && shape.head_dim <= kMaxHeadDim) << shape.head_dim;
  CHECK(q.columns() == shape.heads * shape.head_dim && k.columns() == shape.kv_heads * shape.head_dim)
      << q.columns() << " " << k.columns();
  CHECK(out.rows() == q.rows() && out.columns() == q.columns()) << out.rows() << "x" << out.columns();
  CHECK(lse.rows() == q.rows() && lse.columns() == shape.heads) << lse.rows() << "x" << lse.columns();
  CHECK_LE(q.rows() * shape.heads, std::numeric_limits<std::int32_t>::max());
}
void check_same_shape(ConstView a, ConstView b) {
  CHECK(a.rows() == b.rows() && a.columns() == b.columns())
      << a.rows() << "x" << a.columns() << ", " << b.rows() << "x" << b.columns();
}
dim3 grid_of(std::int64_t entries, std::int64_t heads) {
  return dim3(grid_size((entries * heads + kWarps - 1) / kWarps));
}

}  // namespace

void attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse, ConstView d_out,
                        const HeadShape& shape, DType kv_type, const BackwardTables& tables, View d_q,
                        View d_k, View d_v, const Stream& stream) {
  check_shapes(q, k, out, lse, shape);
  check_same_shape(q, d_out);
  check_same_shape(q, d_q);
  check_same_shape(k, v);
  check_same_shape(k, d_k);
  check_same_shape(k, d_v);
  const Inputs in{rows_of<float>(q), rows_of<float>(k), rows_of<float>(v), rows_of<float>(lse),
                  rows_of<float>(d_out)};
  const Shape kernel_shape{static_cast<int>(shape.heads), static_cast<int>(shape.kv_heads),
                           static_cast<int>(shape.head_dim),
                           1.0F / std::sqrt(static_cast<float>(shape.head_dim))};
  const dim3 block(kWarps * kWarpSize);
  with_float_type(kv_type, [&](auto kv_zero) {
    with_float_type(out.type(), [&](auto out_zero) {
      using Kv = decltype(kv_zero);
      using Output = decltype(out_zero);
      if (!tables.queries.empty()) {
        launch(query_kernel<Kv, Output>, grid_of(tables.queries.size, shape.heads), block,
               kWarps * query_memory_floats(shape.head_dim) * sizeof(float), stream, in, rows_of<Output>(out),
               kernel_shape, tables.queries, rows_of<float>(d_q));
      }
      if (!tables.keys.empty()) {
        launch(key_kernel<Kv, Output>, grid_of(tables.keys.size, shape.kv_heads), block,
               kWarps * key_memory_floats(shape.head_dim) * sizeof(float), stream, in, rows_of<Output>(out),
               kernel_shape, tables.keys, tables.ranges.data, rows_of<float>(d_k), rows_of<float>(d_v));
      }
    });
  });
}

}  // namespace biqa::cuda
