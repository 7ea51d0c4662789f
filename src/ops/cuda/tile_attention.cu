// SPDX-License-Identifier: Apache-2.0
// A warp holds the queries of 16 pairs in registers, in the layout of the left factor. For each block of keys it
// computes the scores in accumulators, updates the softmax and adds the weighted values. Meanwhile the next block is
// copied to shared memory.
#include <cmath>

#include "ops/cuda/tile_kernels.h"

namespace biqa::cuda {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr int kScoreParts = kBlockKeys / 8;

struct ForwardArguments {
  const void* q;  // bf16 if q_is_bf16, else f32
  bool q_is_bf16;
  std::int64_t q_stride;
  KeySource source;
  const QueryTile* tiles;
  const KeyRun* own;  // of tiles with members
  int heads, heads_per_kv_head, head_dim;
  float query_factor;  // makes the scores logarithms to base 2
  void* out;           // bf16 if out_is_bf16, else f32
  bool out_is_bf16;
  std::int64_t out_stride;
  float* lse;  // may be null
  std::int64_t lse_stride;
};

/// A lane's softmax state of its two pairs after some blocks of keys. Logarithms are to base 2.
template <int D>
struct Softmax {
  float values[D / 8][4];  // weighted
  float top[2], sum[2];
};

/// Multiplies by the factor, then rounds to bf16.
template <int D>
__device__ void load_queries(std::uint32_t (&queries)[D / 16][4], const ForwardArguments& a, const Pair& pair,
                             int half) {
  const std::int64_t first = pair.row * a.q_stride + pair.head * a.head_dim + lane_column();
  BIQA_UNROLL
  for (int d = 0; d < D / 8; ++d) {
    FloatPair x{0.0F, 0.0F};
    if (d * 8 < a.head_dim) x = load_pair(a.q, a.q_is_bf16, first + d * 8);
    queries[d / 2][half + d % 2 * 2] = pack_bf16(x.low * a.query_factor, x.high * a.query_factor);
  }
}

template <int D>
__device__ void score(float (&scores)[kScoreParts][4], const std::uint32_t (&queries)[D / 16][4],
                      const Bf16* keys) {
  set_zero(scores);
  BIQA_UNROLL
  for (int d = 0; d < D / 16; ++d) {
    BIQA_UNROLL
    for (int n = 0; n < kBlockKeys / 16; ++n) {
      std::uint32_t right[4];
      ldmatrix(right, right_address<D>(keys, n * 16, d * 16));
      multiply(scores[2 * n], scores[2 * n + 1], queries[d], right);
    }
  }
}

/// Keys from `seen` on get no weight. `seen` counts from the block's first key.
__device__ void hide(float (&scores)[kScoreParts][4], const int (&seen)[2]) {
  BIQA_UNROLL
  for (int n = 0; n < kScoreParts; ++n) {
    BIQA_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (n * 8 + lane_column() + i % 2 >= seen[i / 2]) scores[n][i] = kLowest;
    }
  }
}

__device__ float largest_of_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 1));
  return fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 2));
}
__device__ float sum_of_row(float x) {
  x = x + __shfl_xor_sync(kWholeWarp, x, 1);
  return x + __shfl_xor_sync(kWholeWarp, x, 2);
}

/// Turns scores into weights relative to the row's new maximum, and rescales the row's sum and values to it. A block to
/// which a row does not attend multiplies these by exactly 1 and adds 0. So the tile's other rows do not change the
/// row's bits.
template <int D>
__device__ void weigh(float (&scores)[kScoreParts][4], Softmax<D>& state) {
  BIQA_UNROLL
  for (int half = 0; half < 2; ++half) {
    float top = state.top[half];
    BIQA_UNROLL
    for (int n = 0; n < kScoreParts; ++n)
      top = fmaxf(top, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    top = largest_of_row(top);
    const float base = top == kLowest ? 0.0F : top;
    const float fade = top == state.top[half] ? 1.0F : exp2_fast(state.top[half] - base);
    float sum = 0.0F;
    BIQA_UNROLL
    for (int n = 0; n < kScoreParts; ++n) {
      BIQA_UNROLL
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[n][i] = exp2_fast(scores[n][i] - base);
        sum = sum + scores[n][i];
      }
    }
    state.sum[half] = fmadd(state.sum[half], fade, sum_of_row(sum));
    state.top[half] = top;
    BIQA_UNROLL
    for (int d = 0; d < D / 8; ++d) {
      state.values[d][2 * half] = state.values[d][2 * half] * fade;
      state.values[d][2 * half + 1] = state.values[d][2 * half + 1] * fade;
    }
  }
}

template <int D>
__device__ void write_pair(const ForwardArguments& a, const Pair& pair, int half, const Softmax<D>& state) {
  const float inverse = 1.0F / state.sum[half];
  const std::int64_t first = pair.row * a.out_stride + pair.head * a.head_dim + lane_column();
  BIQA_UNROLL
  for (int d = 0; d < D / 8; ++d) {
    if (d * 8 >= a.head_dim) break;
    const float low = state.values[d][2 * half] * inverse;
    const float high = state.values[d][2 * half + 1] * inverse;
    if (a.out_is_bf16)
      *reinterpret_cast<std::uint32_t*>(static_cast<Bf16*>(a.out) + first + d * 8) = pack_bf16(low, high);
    else
      *reinterpret_cast<FloatPair*>(static_cast<float*>(a.out) + first + d * 8) = {low, high};
  }
  if (a.lse != nullptr && lane_column() == 0)
    a.lse[pair.row * a.lse_stride + pair.head] = fmadd(state.top[half], kLn2, logf(state.sum[half]));
}

/// A block of keys of a tile. First come the tile's keys (member −1), then those of each member.
struct BlockPosition {
  int member = -1;
  int key = 0;  // the block's first key, counted from the first of its run
  KeyRun run;   // its length is that of the tile's last row
  __device__ bool is_last(const QueryTile& tile) const {
    return key + kBlockKeys >= run.length && member + 1 >= tile.members;
  }
  __device__ BlockPosition next(const QueryTile& tile, const KeyRun* own) const {
    if (key + kBlockKeys < run.length) return {member, key + kBlockKeys, run};
    return {member + 1, 0, own[tile.first_member + member + 1]};
  }
};

/// How many of the block's keys a row sees.
__device__ int seen_keys(const BlockPosition& at, const QueryTile& tile, const Pair& pair) {
  if (at.member < 0) return tile.keys.length + tile.keys.growth * pair.later - at.key;
  return pair.later == at.member ? at.run.length - at.key : 0;
}

template <int D>
__global__ void __launch_bounds__(kTileThreads, D == 64 ? 2 : 0) tile_attention_kernel(ForwardArguments a) {
  constexpr int kBlockElements = 2 * kBlockKeys * kRowStride<D>;
  auto* shared = dynamic_shared<Bf16>();
  const QueryTile tile = a.tiles[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y);
  Pair pairs[2];
  std::uint32_t queries[D / 16][4];
  Softmax<D> state;
  set_zero(state.values);
  BIQA_UNROLL
  for (int half = 0; half < 2; ++half) {
    pairs[half] = pair_at(tile.first_pair, tile.pairs, warp_index() * kWarpPairs + lane_row(half),
                          a.heads_per_kv_head, kv_head);
    load_queries<D>(queries, a, pairs[half], half);
    state.top[half] = kLowest;
    state.sum[half] = 0.0F;
  }
  const auto later_of = [&](int pair) {
    return (tile.first_pair + pair) / a.heads_per_kv_head - tile.first_pair / a.heads_per_kv_head;
  };
  const int first_pair = warp_index() * kWarpPairs;
  const bool works = first_pair < tile.pairs;
  const int pairs_end = first_pair + kWarpPairs < tile.pairs ? first_pair + kWarpPairs : tile.pairs;
  const auto load = [&](const BlockPosition& at, int buffer) {
    load_keys<D, kBlockKeys>(shared + buffer * kBlockElements, a.source,
                             a.source.offset(at.run.first, at.key, kv_head), at.run.length - at.key,
                             a.head_dim);
  };
  BlockPosition at{-1, 0, tile.keys};
  at.run.length += tile.keys.growth * later_of(tile.pairs - 1);
  load(at, 0);
  int buffer = 0;
  BIQA_KEEP_LOOP
  for (bool last = false; !last; buffer ^= 1) {
    last = at.is_last(tile);
    const BlockPosition next = last ? at : at.next(tile, a.own);
    if (!last) {
      load(next, buffer ^ 1);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();
    // Keys of a member are no work for the warps that have none of its rows.
    const bool has_rows =
        at.member < 0 || (at.member >= later_of(first_pair) && at.member <= later_of(pairs_end - 1));
    if (works && has_rows) {
      const Bf16* keys = shared + buffer * kBlockElements;
      float scores[kScoreParts][4];
      score<D>(scores, queries, keys);
      if (at.member >= 0 || at.key + kBlockKeys > tile.keys.length)  // some rows do not see all of it
        hide(scores, {seen_keys(at, tile, pairs[0]), seen_keys(at, tile, pairs[1])});
      weigh<D>(scores, state);
      add_weighted<D>(state.values, scores, keys + kBlockKeys * kRowStride<D>);
    }
    __syncthreads();
    at = next;
  }
  BIQA_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (pairs[half].there) write_pair<D>(a, pairs[half], half, state);
  }
}

void run(ForwardArguments a, ConstView q, const HeadShape& shape, const ForwardTable& table, View out,
         View lse, const Stream& stream) {
  CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0)
      << shape.heads << " heads, " << shape.kv_heads << " kv heads";
  CHECK(q.columns() == shape.heads * shape.head_dim && out.columns() == q.columns() && q.rows() == out.rows())
      << q.rows() << "x" << q.columns() << " " << out.rows() << "x" << out.columns();
  CHECK(lse.empty() || (lse.rows() == q.rows() && lse.columns() == shape.heads));
  if (table.tiles.empty()) return;
  for (const ConstView& pairs : {q, ConstView(out)}) check_aligned(pairs, 2 * size_of(pairs.type()));
  a.q_is_bf16 = q.type() == DType::bf16;
  a.q = a.q_is_bf16 ? static_cast<const void*>(elements<Bf16>(q)) : elements<float>(q);
  a.q_stride = q.stride();
  a.tiles = table.tiles.data;
  a.own = table.own.data;
  a.heads = static_cast<int>(shape.heads);
  a.heads_per_kv_head = static_cast<int>(shape.heads / shape.kv_heads);
  a.head_dim = static_cast<int>(shape.head_dim);
  a.query_factor = kLog2E / std::sqrt(static_cast<float>(shape.head_dim));
  a.out_is_bf16 = out.type() == DType::bf16;
  a.out = a.out_is_bf16 ? static_cast<void*>(elements<Bf16>(out)) : elements<float>(out);
  a.out_stride = out.stride();
  a.lse = lse.empty() ? nullptr : elements<float>(lse);
  a.lse_stride = lse.stride();
  const dim3 grid(grid_size(table.tiles.size), static_cast<unsigned>(shape.kv_heads));
  with_rounded_head_dim(shape.head_dim, [&](auto rounded) {
    constexpr int kD = decltype(rounded)::value;
    constexpr std::size_t kSharedBytes = std::size_t{2} * 2 * kBlockKeys * kRowStride<kD> * sizeof(Bf16);
    static_assert(kSharedBytes == 512 * (kD + 8), "docs/cuda-resources.md has this formula");
    launch(tile_attention_kernel<kD>, grid, dim3(kTileThreads), kSharedBytes, stream, a);
  });
}

}  // namespace

void tile_attention(ConstView q, const KvPages& pages, const HeadShape& shape, const ForwardTable& table,
                    DeviceSpan<std::int32_t> page_table, View out, View lse, const Stream& stream) {
  CHECK(tiles_fit(shape, pages.type)) << "heads of " << shape.head_dim << " " << name_of(pages.type);
  CHECK(pages.page_elements % kChunk == 0) << pages.page_elements;
  const auto* keys = static_cast<const Bf16*>(pages.data);
  ForwardArguments a{};
  a.source = {keys,
              keys + kBlockKeys * shape.head_dim,
              shape.head_dim,
              2 * kBlockKeys * shape.head_dim,
              page_table.data,
              pages.page_elements};
  run(a, q, shape, table, out, lse, stream);
}

void tile_segment_attention(ConstView q, ConstView k, ConstView v, const HeadShape& shape,
                            DeviceSpan<QueryTile> tiles, View out, const Stream& stream) {
  CHECK(tiles_fit(shape, k.type())) << "heads of " << shape.head_dim << " " << name_of(k.type());
  CHECK_EQ(shape.heads, shape.kv_heads);
  CHECK(k.columns() == q.columns() && v.columns() == q.columns() && k.rows() == v.rows());
  CHECK_EQ(k.stride(), v.stride());
  if (tiles.empty()) return;
  constexpr std::size_t kBytes = kChunk * sizeof(Bf16);
  check_aligned(k, kBytes);
  check_aligned(v, kBytes);
  ForwardArguments a{};
  a.source = {elements<Bf16>(k), elements<Bf16>(v), k.stride(), shape.head_dim, nullptr, 0};
  run(a, q, shape, {tiles, {}}, out, {}, stream);
}

}  // namespace biqa::cuda
