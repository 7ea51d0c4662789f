// SPDX-License-Identifier: Apache-2.0
// One warp computes one query row and head. It goes over the keys in ascending blocks of 64, with an online softmax.
// Each lane computes the scores of two keys of a block. Then it adds the weighted values of every 32nd dimension.
#include "ops/cuda/attention.h"

#include <cmath>
#include <limits>

#include "ops/cuda/kernel_support.h"
#include "ops/cuda/reduce.h"

namespace biqa::cuda {
namespace {

constexpr int kBlockKeys = static_cast<int>(kPageTokens);
constexpr int kKeysPerLane = kBlockKeys / kWarpSize;
constexpr int kMaxHeadDim = 256;
constexpr int kDimsPerLane = kMaxHeadDim / kWarpSize;
constexpr int kWarps = 4;  // of a block
constexpr float kLowest = -std::numeric_limits<float>::infinity();

/// Consecutive keys and values of one kv head.
template <typename T>
struct KeyBlock {
  const T* keys;
  const T* values;
  std::int64_t key_stride, value_stride;  // elements from one position to the next
};

/// One kv head of a sequence in pages.
template <typename T>
struct PagedKeys {
  using Element = T;
  const T* head;  // in page 0
  std::int64_t page_elements;
  const std::int32_t* pages;
  int head_dim;
  __device__ KeyBlock<T> block(int first) const {
    const T* keys = head + pages[first / kBlockKeys] * page_elements;
    return {keys, keys + kBlockKeys * head_dim, head_dim, head_dim};
  }
};

/// One head of a segment in packed rows.
struct PackedKeys {
  using Element = float;
  const float* keys;
  const float* values;
  std::int64_t key_stride, value_stride;
  __device__ KeyBlock<float> block(int first) const {
    return {keys + first * key_stride, values + first * value_stride, key_stride, value_stride};
  }
};

/// Shared memory of one warp.
struct WarpMemory {
  float* query;    // [head_dim]
  float* weights;  // [kBlockKeys]
};
std::size_t warp_memory_floats(std::int64_t head_dim) {
  return static_cast<std::size_t>(head_dim) + kBlockKeys;
}
__device__ WarpMemory warp_memory(int head_dim) {
  float* own = dynamic_shared<float>() + threadIdx.x / kWarpSize * (head_dim + kBlockKeys);
  return {own, own + head_dim};
}

template <typename T>
__device__ float dot(const float* query, const T* key, int head_dim) {
  float sum = 0.0F;
  for (int d = 0; d < head_dim; ++d) sum = fmaf(query[d], value_of(key[d]), sum);
  return sum;
}

/// exp(score − top), without computing −inf − (−inf). NaN stays NaN, and +inf becomes NaN.
__device__ float weight_of(float score, float top) {
  return score == kLowest ? 0.0F : expf(score - top);
}

/// A warp's softmax state of a row after some blocks of keys.
struct Softmax {
  float highest = kLowest;
  float sum = 0.0F;                       // of the lane's own weights, relative to `highest`
  float weighted_values[kDimsPerLane]{};  // of dimensions lane, lane + 32, …
};

/// Takes `count` keys more.
template <typename T>
__device__ void add_block(const KeyBlock<T>& block, int count, int head_dim, float scale,
                          const WarpMemory& memory, Softmax& state) {
  const int lane = thread_index() % kWarpSize;
  float scores[kKeysPerLane];
  float top = kLowest;
  for (int i = 0; i < kKeysPerLane; ++i) {
    // Memory after the last key is never read, because it may hold anything.
    const int key = lane + i * kWarpSize;
    scores[i] =
        key < count ? dot(memory.query, block.keys + key * block.key_stride, head_dim) * scale : kLowest;
    top = fmaxf(top, scores[i]);
  }
  top = fmaxf(state.highest, combine_in_warp(top, Larger()));
  const float fade = top == state.highest ? 1.0F : expf(state.highest - top);
  state.highest = top;
  state.sum *= fade;
  for (int i = 0; i < kKeysPerLane; ++i) {
    const float weight = weight_of(scores[i], top);
    memory.weights[lane + i * kWarpSize] = weight;
    state.sum += weight;
  }
  __syncwarp();
  for (float& value : state.weighted_values) value *= fade;
  for (int key = 0; key < count; ++key) {
    const float weight = memory.weights[key];
    const T* values = block.values + key * block.value_stride;
    for (int i = 0; i < kDimsPerLane; ++i) {
      const int d = lane + i * kWarpSize;
      if (d < head_dim)
        state.weighted_values[i] = fmaf(weight, value_of(values[d]), state.weighted_values[i]);
    }
  }
  __syncwarp();  // the next block overwrites the weights
}

/// One row and head: out [head_dim], and *lse unless it is null.
template <typename Keys, typename Output>
__device__ void attend(const float* query, const Keys& keys, int length, int head_dim, float scale,
                       Output* out, float* lse) {
  const int lane = thread_index() % kWarpSize;
  const WarpMemory memory = warp_memory(head_dim);
  for (int d = lane; d < head_dim; d += kWarpSize) memory.query[d] = query[d];
  __syncwarp();
  Softmax state;
  for (int first = 0; first < length; first += kBlockKeys) {
    const int count = length - first < kBlockKeys ? length - first : kBlockKeys;
    add_block(keys.block(first), count, head_dim, scale, memory, state);
  }
  const float sum = sum_of_warp(state.sum);
  for (int i = 0; i < kDimsPerLane; ++i) {
    const int d = lane + i * kWarpSize;
    if (d < head_dim) out[d] = rounded_to<Output>(state.weighted_values[i] / sum);
  }
  if (lse != nullptr && lane == 0) *lse = state.highest + logf(sum);
}

/// The warp's place in a grid over rows and heads.
struct RowHead {
  std::int64_t row;
  int head;
};
__device__ RowHead row_and_head(int heads) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  return {pair / heads, static_cast<int>(pair % heads)};
}

template <typename Kv, typename Output>
__global__ void attention_kernel(Rows<const float> q, const Kv* pages, std::int64_t page_elements, int heads,
                                 int kv_heads, int head_dim, float scale, DeviceSpan<QueryRow> rows,
                                 const std::int32_t* page_table, Rows<Output> out, Rows<float> lse) {
  const auto [row, head] = row_and_head(heads);
  if (row >= rows.size) return;
  const QueryRow seen = rows.data[row];
  const int kv_head = head / (heads / kv_heads);
  const PagedKeys<Kv> keys{pages + std::int64_t{2} * kv_head * kBlockKeys * head_dim, page_elements,
                           page_table + seen.first_page, head_dim};
  attend(q[row] + head * head_dim, keys, seen.length, head_dim, scale, out[row] + head * head_dim,
         lse.data == nullptr ? nullptr : lse[row] + head);
}

template <typename Output>
__global__ void segment_attention_kernel(Rows<const float> q, Rows<const float> k, Rows<const float> v,
                                         int heads, int head_dim, float scale, DeviceSpan<SegmentRow> rows,
                                         Rows<Output> out) {
  const auto [row, head] = row_and_head(heads);
  if (row >= rows.size) return;
  const SegmentRow segment = rows.data[row];
  const PackedKeys keys{k[segment.first] + head * head_dim, v[segment.first] + head * head_dim, k.stride,
                        v.stride};
  attend(q[row] + head * head_dim, keys, segment.count, head_dim, scale, out[row] + head * head_dim,
         static_cast<float*>(nullptr));
}

template <typename Input, typename T>
__global__ void write_kv_kernel(Rows<const Input> k, Rows<const Input> v, int kv_heads, int head_dim,
                                DeviceSpan<KvWrite> writes, T* pages, std::int64_t page_elements) {
  const KvWrite write = writes.data[blockIdx.x];
  for (int i = thread_index(); i < kv_heads * head_dim; i += block_threads()) {
    T* head = pages + write.page * page_elements + std::int64_t{2} * (i / head_dim) * kBlockKeys * head_dim;
    T* key = head + write.slot * head_dim + i % head_dim;
    *key = rounded_to<T>(value_of(k[write.row][i]));
    key[kBlockKeys * head_dim] = rounded_to<T>(value_of(v[write.row][i]));
  }
}

template <typename T>
__global__ void copy_page_kernel(const T* from, T* to, std::int64_t page_elements) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < page_elements;
       i += step) {
    to[i] = from[i];
  }
}

void check_heads(const HeadShape& shape) {
  CHECK(shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0)
      << shape.heads << " heads, " << shape.kv_heads << " kv heads";
  CHECK(shape.head_dim > 0 && shape.head_dim <= kMaxHeadDim) << shape.head_dim;
}
void check_columns(ConstView rows, std::int64_t heads, const HeadShape& shape) {
  CHECK_EQ(rows.columns(), heads * shape.head_dim);
}
/// Blocks for a warp per row and head.
dim3 grid_of(std::int64_t rows, std::int64_t heads) {
  return dim3(grid_size((rows * heads + kWarps - 1) / kWarps));
}
float score_scale(const HeadShape& shape) {
  return 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
}

}  // namespace

void write_kv(ConstView k, ConstView v, const HeadShape& shape, DeviceSpan<KvWrite> writes,
              const KvPages& pages, const Stream& stream) {
  check_heads(shape);
  check_columns(k, shape.kv_heads, shape);
  check_columns(v, shape.kv_heads, shape);
  if (writes.empty()) return;
  CHECK(k.type() == v.type()) << name_of(k.type()) << " keys, " << name_of(v.type()) << " values";
  with_float_type(k.type(), [&](auto in) {
    with_float_type(pages.type, [&](auto out) {
      using Input = decltype(in);
      using T = decltype(out);
      launch(write_kv_kernel<Input, T>, grid_size(writes.size), 128, 0, stream, rows_of<Input>(k),
             rows_of<Input>(v), static_cast<int>(shape.kv_heads), static_cast<int>(shape.head_dim), writes,
             static_cast<T*>(pages.data), pages.page_elements);
    });
  });
}

void copy_page(const KvPages& pages, std::int32_t from, std::int32_t to, const Stream& stream) {
  with_float_type(pages.type, [&](auto zero) {
    using T = decltype(zero);
    auto* data = static_cast<T*>(pages.data);
    launch(copy_page_kernel<T>, 32, 128, 0, stream, data + from * pages.page_elements,
           data + to * pages.page_elements, pages.page_elements);
  });
}

void attention(ConstView q, const KvPages& pages, const HeadShape& shape, DeviceSpan<QueryRow> rows,
               DeviceSpan<std::int32_t> page_table, View out, View lse, const Stream& stream) {
  check_heads(shape);
  check_columns(q, shape.heads, shape);
  check_columns(out, shape.heads, shape);
  CHECK(q.rows() == rows.size && out.rows() == rows.size)
      << q.rows() << " " << out.rows() << " " << rows.size;
  CHECK(lse.empty() || (lse.rows() == rows.size && lse.columns() == shape.heads));
  if (rows.empty()) return;
  const std::size_t shared_bytes = kWarps * warp_memory_floats(shape.head_dim) * sizeof(float);
  with_float_type(pages.type, [&](auto kv_zero) {
    with_float_type(out.type(), [&](auto out_zero) {
      using Kv = decltype(kv_zero);
      using Output = decltype(out_zero);
      launch(attention_kernel<Kv, Output>, grid_of(rows.size, shape.heads), kWarps * kWarpSize, shared_bytes,
             stream, rows_of<float>(q), static_cast<const Kv*>(pages.data), pages.page_elements,
             static_cast<int>(shape.heads), static_cast<int>(shape.kv_heads),
             static_cast<int>(shape.head_dim), score_scale(shape), rows, page_table.data,
             rows_of<Output>(out), rows_of<float>(lse));
    });
  });
}

void segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                       DeviceSpan<SegmentRow> rows, View out, const Stream& stream) {
  check_heads(shape);
  CHECK_EQ(shape.heads, shape.kv_heads);
  check_columns(q, shape.heads, shape);
  check_columns(k, shape.heads, shape);
  check_columns(v, shape.heads, shape);
  check_columns(out, shape.heads, shape);
  CHECK(q.rows() == rows.size && k.rows() == rows.size && v.rows() == rows.size && out.rows() == rows.size)
      << q.rows() << " " << k.rows() << " " << v.rows() << " " << out.rows() << " " << rows.size;
  if (rows.empty()) return;
  const std::size_t shared_bytes = kWarps * warp_memory_floats(shape.head_dim) * sizeof(float);
  with_float_type(out.type(), [&](auto zero) {
    using Output = decltype(zero);
    launch(segment_attention_kernel<Output>, grid_of(rows.size, shape.heads), kWarps * kWarpSize,
           shared_bytes, stream, rows_of<float>(q), rows_of<float>(k), rows_of<float>(v),
           static_cast<int>(shape.heads), static_cast<int>(shape.head_dim), score_scale(shape), rows,
           rows_of<Output>(out));
  });
}

}  // namespace biqa::cuda
