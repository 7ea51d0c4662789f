// SPDX-License-Identifier: Apache-2.0
// Two passes without atomics. The query pass writes d_q: a warp per query row and head goes over the keys that the row sees. The
// key pass writes d_k and d_v: a warp per key row and kv head goes over the query rows that see the key, and for each of them
// over the heads that share the kv head. Both go in blocks of 32: a lane computes one weight and its derivative, then takes
// every 32nd dimension of the sums.
#include <cmath>

#include "ops/cuda/attention.h"
#include "ops/cuda/kernel_support.h"
#include "ops/cuda/reduce.h"

namespace biqa::cuda {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int kDimsPerLane = kMaxHeadDim / kWarpSize;
constexpr int kWarps = 4;  // of a block

/// What all warps of a pass share.
struct Backward {
  Rows<const float> q, k, v, lse, d_out;
  int heads, kv_heads, head_dim;
  float scale;
  bool rounds;  // keys and values to bf16
  __device__ int sharing() const { return heads / kv_heads; }
  __device__ float stored(float x) const { return rounds ? to_float(to_bf16(x)) : x; }
};

/// Working memory of one warp.
struct WarpMemory {
  float* first;        // [head_dim]
  float* second;       // [head_dim]
  float* weights;      // [kWarpSize]
  float* derivatives;  // [kWarpSize]
};
std::size_t warp_memory_floats(std::int64_t head_dim) {
  return static_cast<std::size_t>(2 * head_dim + 2 * kWarpSize);
}
__device__ WarpMemory warp_memory(int head_dim) {
  float* own = dynamic_shared<float>() + threadIdx.x / kWarpSize * (2 * head_dim + 2 * kWarpSize);
  return {own, own + head_dim, own + 2 * head_dim, own + 2 * head_dim + kWarpSize};
}

/// Σ over the dimensions of out · d_out of one row and head.
template <typename Output>
__device__ float row_delta(const Output* out, const float* d_out, int head_dim) {
  float sum = 0.0F;
  for (int d = 0; d < head_dim; ++d) sum = fmaf(value_of(out[d]), d_out[d], sum);
  return sum;
}

/// Adds the part of d_q of `count` consecutive key rows.
__device__ void add_keys(const Backward& b, int first, int count, int kv_head, float lse, float delta,
                         const WarpMemory& memory, float (&sums)[kDimsPerLane]) {
  const int lane = thread_index() % kWarpSize;
  const int offset = kv_head * b.head_dim;
  for (int begin = 0; begin < count; begin += kWarpSize) {
    const int keys = count - begin < kWarpSize ? count - begin : kWarpSize;
    if (lane < keys) {
      const float* key = b.k[first + begin + lane] + offset;
      const float* value = b.v[first + begin + lane] + offset;
      float score = 0.0F;
      float d_weight = 0.0F;
      for (int d = 0; d < b.head_dim; ++d) {
        score = fmaf(memory.first[d], b.stored(key[d]), score);
        d_weight = fmaf(memory.second[d], b.stored(value[d]), d_weight);
      }
      memory.derivatives[lane] = expf(score * b.scale - lse) * (d_weight - delta) * b.scale;
    }
    __syncwarp();
    for (int key = 0; key < keys; ++key) {
      const float derivative = memory.derivatives[key];
      const float* row = b.k[first + begin + key] + offset;
      for (int i = 0; i < kDimsPerLane; ++i) {
        const int d = lane + i * kWarpSize;
        if (d < b.head_dim) sums[i] = fmaf(derivative, b.stored(row[d]), sums[i]);
      }
    }
    __syncwarp();  // the next block overwrites the derivatives
  }
}

template <typename Output>
__global__ void query_kernel(Backward b, Rows<const Output> out, DeviceSpan<QueryKeys> queries,
                             Rows<float> d_q) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (pair >= queries.size * b.heads) return;
  const QueryKeys seen = queries.data[pair / b.heads];
  const int head = static_cast<int>(pair % b.heads);
  const int lane = thread_index() % kWarpSize;
  const int offset = head * b.head_dim;
  const float* d_out = b.d_out[seen.query_row] + offset;
  const float delta = row_delta(out[seen.query_row] + offset, d_out, b.head_dim);
  const WarpMemory memory = warp_memory(b.head_dim);
  for (int d = lane; d < b.head_dim; d += kWarpSize) {
    memory.first[d] = b.q[seen.query_row][offset + d];
    memory.second[d] = d_out[d];
  }
  __syncwarp();
  const float lse = b.lse[seen.query_row][head];
  float sums[kDimsPerLane]{};
  add_keys(b, seen.prompt_first, seen.prompt_keys, head / b.sharing(), lse, delta, memory, sums);
  add_keys(b, seen.own_first, seen.own_keys, head / b.sharing(), lse, delta, memory, sums);
  for (int i = 0; i < kDimsPerLane; ++i) {
    const int d = lane + i * kWarpSize;
    if (d < b.head_dim) d_q[seen.query_row][offset + d] = sums[i];
  }
}

/// Adds the parts of d_k and d_v of consecutive query rows, all heads of the kv head, row by row.
template <typename Output>
__device__ void add_queries(const Backward& b, Rows<const Output> out, QueryRange range, int kv_head,
                            const WarpMemory& memory, float (&d_key)[kDimsPerLane],
                            float (&d_value)[kDimsPerLane]) {
  const int lane = thread_index() % kWarpSize;
  const int pairs = range.count * b.sharing();
  for (int begin = 0; begin < pairs; begin += kWarpSize) {
    const int count = pairs - begin < kWarpSize ? pairs - begin : kWarpSize;
    const auto place = [&](int pair) {  // of a row and head
      const int row = range.first + (begin + pair) / b.sharing();
      const int head = kv_head * b.sharing() + (begin + pair) % b.sharing();
      return QueryRange{row, head};
    };
    if (lane < count) {
      const auto [row, head] = place(lane);
      const float* query = b.q[row] + head * b.head_dim;
      const float* d_out = b.d_out[row] + head * b.head_dim;
      float score = 0.0F;
      float d_weight = 0.0F;
      for (int d = 0; d < b.head_dim; ++d) {
        score = fmaf(query[d], memory.first[d], score);
        d_weight = fmaf(d_out[d], memory.second[d], d_weight);
      }
      const float weight = expf(score * b.scale - b.lse[row][head]);
      memory.weights[lane] = weight;
      memory.derivatives[lane] =
          weight * (d_weight - row_delta(out[row] + head * b.head_dim, d_out, b.head_dim)) * b.scale;
    }
    __syncwarp();
    for (int pair = 0; pair < count; ++pair) {
      const auto [row, head] = place(pair);
      const float* query = b.q[row] + head * b.head_dim;
      const float* d_out = b.d_out[row] + head * b.head_dim;
      for (int i = 0; i < kDimsPerLane; ++i) {
        const int d = lane + i * kWarpSize;
        if (d >= b.head_dim) continue;
        d_key[i] = fmaf(memory.derivatives[pair], query[d], d_key[i]);
        d_value[i] = fmaf(memory.weights[pair], d_out[d], d_value[i]);
      }
    }
    __syncwarp();
  }
}

template <typename Output>
__global__ void key_kernel(Backward b, Rows<const Output> out, DeviceSpan<KeyQueries> keys,
                           DeviceSpan<QueryRange> ranges, Rows<float> d_k, Rows<float> d_v) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (pair >= keys.size * b.kv_heads) return;
  const KeyQueries seen = keys.data[pair / b.kv_heads];
  const int kv_head = static_cast<int>(pair % b.kv_heads);
  const int lane = thread_index() % kWarpSize;
  const int offset = kv_head * b.head_dim;
  const WarpMemory memory = warp_memory(b.head_dim);
  for (int d = lane; d < b.head_dim; d += kWarpSize) {
    memory.first[d] = b.stored(b.k[seen.key_row][offset + d]);
    memory.second[d] = b.stored(b.v[seen.key_row][offset + d]);
  }
  __syncwarp();
  float d_key[kDimsPerLane]{};
  float d_value[kDimsPerLane]{};
  add_queries(b, out, seen.first, kv_head, memory, d_key, d_value);
  for (int range = seen.range_begin; range < seen.range_end; ++range) {
    add_queries(b, out, ranges.data[range], kv_head, memory, d_key, d_value);
  }
  for (int i = 0; i < kDimsPerLane; ++i) {
    const int d = lane + i * kWarpSize;
    if (d >= b.head_dim) continue;
    d_k[seen.key_row][offset + d] = d_key[i];
    d_v[seen.key_row][offset + d] = d_value[i];
  }
}

dim3 grid_of(std::int64_t warps) {
  return dim3(grid_size((warps + kWarps - 1) / kWarps));
}

}  // namespace

void attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse, ConstView d_out,
                        const HeadShape& shape, DType kv_type, const BackwardTables& tables, View d_q,
                        View d_k, View d_v, const Stream& stream) {
  CHECK(shape.head_dim <= kMaxHeadDim && shape.heads % shape.kv_heads == 0)
      << shape.head_dim << " " << shape.heads;
  CHECK(q.rows() == d_out.rows() && q.rows() == lse.rows() && q.rows() == out.rows());
  const Backward b{rows_of<float>(q),
                   rows_of<float>(k),
                   rows_of<float>(v),
                   rows_of<float>(lse),
                   rows_of<float>(d_out),
                   static_cast<int>(shape.heads),
                   static_cast<int>(shape.kv_heads),
                   static_cast<int>(shape.head_dim),
                   1.0F / std::sqrt(static_cast<float>(shape.head_dim)),
                   kv_type == DType::bf16};
  const std::size_t shared_bytes = kWarps * warp_memory_floats(shape.head_dim) * sizeof(float);
  with_float_type(out.type(), [&](auto zero) {
    using Output = decltype(zero);
    const Rows<const Output> results = rows_of<Output>(out);
    if (!tables.queries.empty()) {
      launch(query_kernel<Output>, grid_of(tables.queries.size * shape.heads), dim3(kWarps * kWarpSize),
             shared_bytes, stream, b, results, tables.queries, rows_of<float>(d_q));
    }
    if (!tables.keys.empty()) {
      launch(key_kernel<Output>, grid_of(tables.keys.size * shape.kv_heads), dim3(kWarps * kWarpSize),
             shared_bytes, stream, b, results, tables.keys, tables.ranges, rows_of<float>(d_k),
             rows_of<float>(d_v));
    }
  });
}

}  // namespace biqa::cuda
