// SPDX-License-Identifier: Apache-2.0
// Two passes; each computes the weights again. The first computes d_q: for each tile of queries it goes over the keys.
// The second computes d_k and d_v: for each block of keys it goes over the queries. Every sum is computed by one warp
// in a fixed order.
#include <cmath>

#include "ops/cuda/buffers.h"
#include "ops/cuda/tile_kernels.h"

namespace biqa::cuda {
namespace {

constexpr int kStepKeys =
    32;  // that backward_queries takes at once: more would not fit every device's shared memory
constexpr int kScoreParts = kStepKeys / 8;
constexpr int kStepPairs = 32;  // that backward_keys takes at once
constexpr int kStepParts = kStepPairs / 8;

struct BackwardArguments {
  const Bf16* q;  // [T', heads·D], times the factor of the forward
  const Bf16* d_out;
  const float* lse;    // [T', heads], to base 2
  const float* delta;  // [T', heads]: Σ out · d_out
  KeySource source;
  TileBackwardTables tables;
  int heads, heads_per_kv_head, head_dim;
  float scale;  // 1 / sqrt(D)
  float *d_q, *d_k, *d_v;
  std::int64_t d_q_stride, d_k_stride, d_v_stride;
};

struct PrepareArguments {
  const void *q, *out;  // bf16 if ..._is_bf16, else f32
  bool q_is_bf16, out_is_bf16;
  const float *d_out, *lse;
  std::int64_t q_stride, d_out_stride, out_stride, lse_stride;
  std::int64_t pairs;
  int heads, head_dim;
  float query_factor;
  std::uint32_t *rounded_q, *rounded_d_out;  // two elements in each
  float *base_2_lse, *delta;
};

/// A warp takes a row and head. The sum of out · d_out takes d_out as the products do: rounded.
__global__ void prepare_kernel(PrepareArguments a) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kTileWarps + warp_index();
  if (pair >= a.pairs) return;
  const std::int64_t row = pair / a.heads;
  const int head = static_cast<int>(pair % a.heads);
  float sum = 0.0F;
  for (int d = 2 * lane_index(); d < a.head_dim; d += 2 * kWarpSize) {
    const int column = head * a.head_dim + d;
    const FloatPair q = load_pair(a.q, a.q_is_bf16, row * a.q_stride + column);
    const auto& d_out = *reinterpret_cast<const FloatPair*>(a.d_out + row * a.d_out_stride + column);
    const std::int64_t to = (pair * a.head_dim + d) / 2;
    a.rounded_q[to] = pack_bf16(q.low * a.query_factor, q.high * a.query_factor);
    const std::uint32_t rounded = pack_bf16(d_out.low, d_out.high);
    a.rounded_d_out[to] = rounded;
    const FloatPair out = load_pair(a.out, a.out_is_bf16, row * a.out_stride + column);
    sum = fmadd(out.low, first_of(rounded), sum);
    sum = fmadd(out.high, second_of(rounded), sum);
  }
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    sum = sum + __shfl_xor_sync(kWholeWarp, sum, distance);
  if (lane_index() != 0) return;
  a.delta[pair] = sum;
  a.base_2_lse[pair] = a.lse[row * a.lse_stride + head] * kLog2E;
}

/// Starts the copy of q and d_out of one pair, 8 columns each, to shared memory.
template <int D>
__device__ void copy_pair_chunk(Bf16* q, Bf16* d_out, const BackwardArguments& a, const Pair& pair,
                                int column, bool there) {
  const std::int64_t from = (static_cast<std::int64_t>(pair.row) * a.heads + pair.head) * a.head_dim + column;
  there = there && column < a.head_dim;
  copy_async(q + column, a.q + (there ? from : 0), there);
  copy_async(d_out + column, a.d_out + (there ? from : 0), there);
}

/// Two columns of a row of gradients, times `factor`.
template <int D>
__device__ void write_row(float* to, const float (&sums)[D / 8][4], int half, float factor, int head_dim) {
  BIQA_UNROLL
  for (int d = 0; d < D / 8; ++d) {
    if (d * 8 >= head_dim) break;
    *reinterpret_cast<FloatPair*>(to + d * 8) = {sums[d][2 * half] * factor, sums[d][2 * half + 1] * factor};
  }
}

/// first = first_left · first_rightᵀ and second = second_left · second_rightᵀ, summed over the columns. Each product
/// has 16 rows and kParts · 8 columns.
template <int D, int kParts>
__device__ void multiply_rows(float (&first)[kParts][4], float (&second)[kParts][4], const Bf16* first_left,
                              const Bf16* second_left, const Bf16* first_right, const Bf16* second_right) {
  set_zero(first);
  set_zero(second);
  const int row = warp_index() * kWarpPairs;
  BIQA_UNROLL
  for (int d = 0; d < D / 16; ++d) {
    std::uint32_t left[4];
    std::uint32_t other_left[4];
    ldmatrix(left, left_address<D>(first_left, row, d * 16));
    ldmatrix(other_left, left_address<D>(second_left, row, d * 16));
    BIQA_UNROLL
    for (int n = 0; n < kParts / 2; ++n) {
      std::uint32_t right[4];
      ldmatrix(right, right_address<D>(first_right, n * 16, d * 16));
      multiply(first[2 * n], first[2 * n + 1], left, right);
      ldmatrix(right, right_address<D>(second_right, n * 16, d * 16));
      multiply(second[2 * n], second[2 * n + 1], other_left, right);
    }
  }
}

/// Gradient of the logarithms' argument: weight · (d_weight − delta), 0 where the key is not seen.
__device__ inline float score_gradient(float weight, float d_weight, float delta, bool seen) {
  return seen ? weight * (d_weight - delta) : 0.0F;
}

/// Adds the keys of one step to d_q of the warp's 16 pairs. The values follow the keys in memory. A pair attends to the
/// first `seen` keys.
template <int D>
__device__ void add_keys(float (&d_q)[D / 8][4], const Bf16* q, const Bf16* d_out, const Bf16* keys,
                         const float (&lse)[2], const float (&delta)[2], const int (&seen)[2]) {
  float scores[kScoreParts][4];
  float d_weights[kScoreParts][4];
  multiply_rows<D>(scores, d_weights, q, d_out, keys, keys + kStepKeys * kRowStride<D>);
  BIQA_UNROLL
  for (int n = 0; n < kScoreParts; ++n) {
    BIQA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int half = i / 2;
      scores[n][i] = score_gradient(exp2_fast(scores[n][i] - lse[half]), d_weights[n][i], delta[half],
                                    n * 8 + lane_column() + i % 2 < seen[half]);
    }
  }
  add_weighted<D>(d_q, scores, keys);
}

template <int D>
__global__ void __launch_bounds__(kTileThreads, D <= 32 ? 4 : 3)
    backward_queries_kernel(BackwardArguments a) {
  constexpr int kStride = kRowStride<D>;
  constexpr int kStepElements = 2 * kStepKeys * kStride;
  auto* shared = dynamic_shared<Bf16>();
  Bf16* q = shared + 2 * kStepElements;
  Bf16* d_out = q + kTilePairs * kStride;
  const QueryTile tile = a.tables.queries.data[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y);
  for (int i = lane_index(); i < kWarpPairs * (D / kChunk); i += kWarpSize) {
    const int row = warp_index() * kWarpPairs + i / (D / kChunk);
    const Pair pair = pair_at(tile.first_pair, tile.pairs, row, a.heads_per_kv_head, kv_head);
    copy_pair_chunk<D>(q + row * kStride, d_out + row * kStride, a, pair, i % (D / kChunk) * kChunk, true);
  }
  float d_q[D / 8][4];
  set_zero(d_q);
  Pair pairs[2];
  float lse[2];
  float delta[2];
  BIQA_UNROLL
  for (int half = 0; half < 2; ++half) {
    pairs[half] = pair_at(tile.first_pair, tile.pairs, warp_index() * kWarpPairs + lane_row(half),
                          a.heads_per_kv_head, kv_head);
    const std::int64_t at = static_cast<std::int64_t>(pairs[half].row) * a.heads + pairs[half].head;
    lse[half] = a.lse[at];
    delta[half] = a.delta[at];
  }
  const bool works = warp_index() * kWarpPairs < tile.pairs;
  const int last_row = (tile.first_pair + tile.pairs - 1) / a.heads_per_kv_head;
  const int rows_later = last_row - tile.first_pair / a.heads_per_kv_head;
  const int length = tile.keys.length + tile.keys.growth * rows_later;
  const int own_length = tile.own.length + tile.own.growth * rows_later;
  const int first_own = (length + kStepKeys - 1) / kStepKeys;  // step of the own keys
  const int steps = first_own + (own_length + kStepKeys - 1) / kStepKeys;
  const auto load = [&](int step) {
    const bool own = step >= first_own;
    const int key = (own ? step - first_own : step) * kStepKeys;
    load_keys<D, kStepKeys>(shared + step % 2 * kStepElements, a.source,
                            a.source.offset(own ? tile.own.first : tile.keys.first, key, kv_head),
                            (own ? own_length : length) - key, a.head_dim);
  };
  load(0);
  BIQA_KEEP_LOOP
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      load(step + 1);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();
    if (works) {
      const bool own = step >= first_own;
      const KeyRun run = own ? tile.own : tile.keys;
      const int left = run.length - (own ? step - first_own : step) * kStepKeys;
      const int seen[2] = {left + run.growth * pairs[0].later, left + run.growth * pairs[1].later};
      add_keys<D>(d_q, q, d_out, shared + step % 2 * kStepElements, lse, delta, seen);
    }
    __syncthreads();
  }
  BIQA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const Pair& pair = pairs[half];
    if (pair.there)
      write_row<D>(a.d_q + pair.row * a.d_q_stride + pair.head * a.head_dim + lane_column(), d_q, half,
                   a.scale, a.head_dim);
  }
}

/// kStepPairs pairs in shared memory.
template <int D>
struct PairStep {
  Bf16 q[kStepPairs * kRowStride<D>];
  Bf16 d_out[kStepPairs * kRowStride<D>];
};
struct PairNumbers {
  float lse[kStepPairs];
  float delta[kStepPairs];
  int seen[kStepPairs];  // keys of the block
};
template <int D>
struct KeyBlockMemory {
  Bf16 keys[kBlockKeys * kRowStride<D>];
  Bf16 values[kBlockKeys * kRowStride<D>];
  PairStep<D> steps[2];
  PairNumbers numbers[2];
};

/// Starts the copy of the pairs from step · kStepPairs on, of the run's rows. Closes a copy group.
template <int D>
__device__ void load_step(PairStep<D>& to, PairNumbers& numbers, const BackwardArguments& a,
                          const QueryRun& run, int position, int step, int kv_head) {
  const int first = run.first_row * a.heads_per_kv_head;
  const int count = run.rows * a.heads_per_kv_head;
  for (int i = thread_index(); i < kStepPairs * (D / kChunk); i += kTileThreads) {
    const int row = i / (D / kChunk);
    const Pair pair = pair_at(first, count, step * kStepPairs + row, a.heads_per_kv_head, kv_head);
    copy_pair_chunk<D>(to.q + row * kRowStride<D>, to.d_out + row * kRowStride<D>, a, pair,
                       i % (D / kChunk) * kChunk, pair.there);
  }
  copy_commit();
  const int i = thread_index();
  if (i >= kStepPairs) return;
  const Pair pair = pair_at(first, count, step * kStepPairs + i, a.heads_per_kv_head, kv_head);
  const std::int64_t at = static_cast<std::int64_t>(pair.row) * a.heads + pair.head;
  numbers.lse[i] = a.lse[at];
  numbers.delta[i] = a.delta[at];
  numbers.seen[i] = pair.there ? run.seen + run.growth * pair.later - position : 0;
}

/// Adds the pairs of one step to d_k and d_v of the warp's 16 keys. Rows are keys here, columns are pairs.
template <int D>
__device__ void add_step(float (&d_k)[D / 8][4], float (&d_v)[D / 8][4], const KeyBlockMemory<D>& memory,
                         int slot) {
  const PairStep<D>& step = memory.steps[slot];
  const PairNumbers& numbers = memory.numbers[slot];
  float weights[kStepParts][4];
  float gradients[kStepParts][4];
  multiply_rows<D>(weights, gradients, memory.keys, memory.values, step.q, step.d_out);
  const int key = warp_index() * kWarpPairs;
  BIQA_UNROLL
  for (int n = 0; n < kStepParts; ++n) {
    BIQA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int pair = n * 8 + lane_column() + i % 2;
      const bool seen = key + lane_row(i / 2) < numbers.seen[pair];
      weights[n][i] = seen ? exp2_fast(weights[n][i] - numbers.lse[pair]) : 0.0F;
      gradients[n][i] = score_gradient(weights[n][i], gradients[n][i], numbers.delta[pair], seen);
    }
  }
  add_weighted<D>(d_v, weights, step.d_out);
  add_weighted<D>(d_k, gradients, step.q);
}

template <int D>
__global__ void __launch_bounds__(kTileThreads) backward_keys_kernel(BackwardArguments a) {
  auto& memory = *reinterpret_cast<KeyBlockMemory<D>*>(dynamic_shared<unsigned char>());
  const KeyBlock block = a.tables.keys.data[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y);
  load_keys<D, kBlockKeys>(memory.keys, a.source, a.source.offset(block.first_key, 0, kv_head), block.keys,
                           a.head_dim);
  float d_k[D / 8][4];
  float d_v[D / 8][4];
  set_zero(d_k);
  set_zero(d_v);
  BIQA_KEEP_LOOP
  for (int r = 0; r < block.runs; ++r) {
    const QueryRun run = a.tables.runs.data[block.first_run + r];
    const int blind =
        run.growth == 0 ? 0 : block.position - run.seen + 1;  // rows that see no key of the block
    const int first = (blind > 0 ? blind : 0) * a.heads_per_kv_head / kStepPairs;
    const int end = (run.rows * a.heads_per_kv_head + kStepPairs - 1) / kStepPairs;
    const auto load = [&](int step) {
      load_step<D>(memory.steps[step % 2], memory.numbers[step % 2], a, run, block.position, step, kv_head);
    };
    if (first < end) load(first);
    BIQA_KEEP_LOOP
    for (int step = first; step < end; ++step) {
      if (step + 1 < end) {
        load(step + 1);
        copy_wait<1>();
      } else {
        copy_wait<0>();
      }
      __syncthreads();
      add_step<D>(d_k, d_v, memory, step % 2);
      __syncthreads();
    }
  }
  copy_wait<0>();
  BIQA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int key = warp_index() * kWarpPairs + lane_row(half);
    if (key >= block.keys) continue;
    const std::int64_t row = block.first_key + key;
    const int column = kv_head * a.head_dim + lane_column();
    // The scores are logarithms to base 2, and so is the factor in q.
    write_row<D>(a.d_k + row * a.d_k_stride + column, d_k, half, kLn2, a.head_dim);
    write_row<D>(a.d_v + row * a.d_v_stride + column, d_v, half, 1.0F, a.head_dim);
  }
}

void check_shapes(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse, ConstView d_out,
                  const HeadShape& shape, ConstView d_q, ConstView d_k, ConstView d_v) {
  CHECK(tiles_fit(shape, k.type())) << "heads of " << shape.head_dim << " " << name_of(k.type());
  CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0)
      << shape.heads << " heads, " << shape.kv_heads << " kv heads";
  for (const ConstView& rows : {q, out, d_out, d_q})
    CHECK(rows.rows() == q.rows() && rows.columns() == shape.heads * shape.head_dim)
        << rows.rows() << "x" << rows.columns();
  for (const ConstView& rows : {k, v, d_k, d_v})
    CHECK(rows.rows() == k.rows() && rows.columns() == shape.kv_heads * shape.head_dim)
        << rows.rows() << "x" << rows.columns();
  CHECK(lse.rows() == q.rows() && lse.columns() == shape.heads) << lse.rows() << "x" << lse.columns();
  CHECK_EQ(k.stride(), v.stride());
  check_aligned(k, kChunk * sizeof(Bf16));
  check_aligned(v, kChunk * sizeof(Bf16));
  for (const ConstView& rows : {q, out, d_out, d_q, d_k, d_v}) check_aligned(rows, 2 * size_of(rows.type()));
}

/// Writes the inputs of the two passes to `scratch`.
BackwardArguments prepare(ConstView q, ConstView out, ConstView lse, ConstView d_out, const HeadShape& shape,
                          Arena& scratch, const Stream& stream) {
  const TileScratch taken = take_tile_scratch(q.rows(), q.columns(), shape.heads, scratch);
  PrepareArguments p{};
  p.q_is_bf16 = q.type() == DType::bf16;
  p.q = p.q_is_bf16 ? static_cast<const void*>(elements<Bf16>(q)) : elements<float>(q);
  p.d_out = elements<float>(d_out);
  p.lse = elements<float>(lse);
  p.out_is_bf16 = out.type() == DType::bf16;
  p.out = p.out_is_bf16 ? static_cast<const void*>(elements<Bf16>(out)) : elements<float>(out);
  p.q_stride = q.stride();
  p.d_out_stride = d_out.stride();
  p.out_stride = out.stride();
  p.lse_stride = lse.stride();
  p.pairs = q.rows() * shape.heads;
  p.heads = static_cast<int>(shape.heads);
  p.head_dim = static_cast<int>(shape.head_dim);
  const float root = std::sqrt(static_cast<float>(shape.head_dim));
  p.query_factor = kLog2E / root;
  p.rounded_q = static_cast<std::uint32_t*>(taken.q.address());
  p.rounded_d_out = static_cast<std::uint32_t*>(taken.d_out.address());
  p.base_2_lse = elements<float>(taken.lse);
  p.delta = elements<float>(taken.delta);
  launch(prepare_kernel, dim3(grid_size((p.pairs + kTileWarps - 1) / kTileWarps)), dim3(kTileThreads), 0,
         stream, p);
  BackwardArguments a{};
  a.q = elements<Bf16>(taken.q);
  a.d_out = elements<Bf16>(taken.d_out);
  a.lse = p.base_2_lse;
  a.delta = p.delta;
  a.heads = p.heads;
  a.heads_per_kv_head = static_cast<int>(shape.heads / shape.kv_heads);
  a.head_dim = p.head_dim;
  a.scale = 1.0F / root;
  return a;
}

}  // namespace

void tile_attention_backward(ConstView q, ConstView k, ConstView v, ConstView out, ConstView lse,
                             ConstView d_out, const HeadShape& shape, const TileBackwardTables& tables,
                             View d_q, View d_k, View d_v, Arena& scratch, const Stream& stream) {
  check_shapes(q, k, v, out, lse, d_out, shape, d_q, d_k, d_v);
  if (tables.queries.empty() && tables.keys.empty()) return;
  const Arena::Scope scope(scratch);
  BackwardArguments a = prepare(q, out, lse, d_out, shape, scratch, stream);
  a.source = {elements<Bf16>(k), elements<Bf16>(v), k.stride(), shape.head_dim, nullptr, 0};
  a.tables = tables;
  a.d_q = elements<float>(d_q);
  a.d_k = elements<float>(d_k);
  a.d_v = elements<float>(d_v);
  a.d_q_stride = d_q.stride();
  a.d_k_stride = d_k.stride();
  a.d_v_stride = d_v.stride();
  const auto kv_heads = static_cast<unsigned>(shape.kv_heads);
  with_rounded_head_dim(shape.head_dim, [&](auto rounded) {
    constexpr int kD = decltype(rounded)::value;
    constexpr std::size_t kQueriesBytes =
        std::size_t{2} * (2 * kStepKeys + kTilePairs) * kRowStride<kD> * sizeof(Bf16);
    constexpr std::size_t kKeysBytes = sizeof(KeyBlockMemory<kD>);
    static_assert(kQueriesBytes == 512 * (kD + 8) && kKeysBytes == 512 * (kD + 8) + 768,
                  "docs/cuda-resources.md has these formulas");
    if (!tables.queries.empty())
      launch(backward_queries_kernel<kD>, dim3(grid_size(tables.queries.size), kv_heads), dim3(kTileThreads),
             kQueriesBytes, stream, a);
    if (!tables.keys.empty())
      launch(backward_keys_kernel<kD>, dim3(grid_size(tables.keys.size), kv_heads), dim3(kTileThreads),
             kKeysBytes, stream, a);
  });
}

}  // namespace biqa::cuda
