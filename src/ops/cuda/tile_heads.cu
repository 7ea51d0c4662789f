// SPDX-License-Identifier: Apache-2.0
// A block takes 64 rows of one head. A lane holds the same columns of both halves of the head, which rotation combines.
#include "ops/cuda/tile_heads.h"

#include "ops/cuda/buffers.h"
#include "ops/cuda/low_rank.h"

namespace biqa::cuda {
namespace {

/// The sums of part n are two neighbours of the head's first half; those of part n + kParts / 2 are their partners in the
/// second half.
struct HeadColumns {
  template <int kParts>
  __device__ static int at(int n, int j) {
    return n / (kParts / 2) * (4 * kParts) + j / 2 * kParts + n % (kParts / 2) * 2 + j % 2;
  }
};

struct HeadOperands {
  Rows<Bf16> x;
  const float* bias;  // may be null
  LowRank terms[3];   // queries, keys, values
  Rows<const float> cosines, sines;
  std::int64_t rows;
  int heads, kv_heads;
};

__device__ FloatPair sum_of(std::uint32_t base, const float* bias, FloatPair added) {
  FloatPair offset{0.0F, 0.0F};
  if (bias != nullptr) offset = *reinterpret_cast<const FloatPair*>(bias);
  return {first_of(base) + offset.low + added.low, second_of(base) + offset.high + added.high};
}

/// blockIdx: tile of rows, head. D = 8 · kParts.
template <int kParts>
__global__ void __launch_bounds__(kTileThreads) finish_heads_kernel(HeadOperands a) {
  constexpr int kHalf = 4 * kParts;  // D / 2
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kRowsOfTile + warp_index() * 16;
  const int head = static_cast<int>(blockIdx.y);
  const int projection = head < a.heads ? 0 : head < a.heads + a.kv_heads ? 1 : 2;
  const int first_head = projection == 0 ? 0 : a.heads + (projection - 1) * a.kv_heads;
  const int width = (projection == 0 ? a.heads : a.kv_heads) * 2 * kHalf;
  const LowRank& term = a.terms[projection];
  const int begin = (head - first_head) * 2 * kHalf;  // in the projection
  float sums[kParts][4];
  low_rank_sums<HeadColumns>(term, first_row, a.rows, begin, width, sums);
  BIQA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = first_row + lane_row(half);
    if (row >= a.rows) continue;
    BIQA_UNROLL
    for (int n = 0; n < kParts / 2; ++n) {
      const int j = lane_index() % 4 * kParts + n * 2;
      const int column = head * 2 * kHalf + j;
      auto* const first = reinterpret_cast<std::uint32_t*>(a.x[row] + column);
      auto* const second = reinterpret_cast<std::uint32_t*>(a.x[row] + column + kHalf);
      const float* const bias = a.bias == nullptr ? nullptr : a.bias + column;
      const int m = n + kParts / 2;
      FloatPair low =
          sum_of(*first, bias, scaled_pair(term, row, begin + j, sums[n][2 * half], sums[n][2 * half + 1]));
      FloatPair high =
          sum_of(*second, bias == nullptr ? nullptr : bias + kHalf,
                 scaled_pair(term, row, begin + j + kHalf, sums[m][2 * half], sums[m][2 * half + 1]));
      if (projection < 2) {
        const auto c = *reinterpret_cast<const FloatPair*>(a.cosines[row] + j);
        const auto s = *reinterpret_cast<const FloatPair*>(a.sines[row] + j);
        const FloatPair before = low;
        low = {before.low * c.low - high.low * s.low, before.high * c.high - high.high * s.high};
        high = {high.low * c.low + before.low * s.low, high.high * c.high + before.high * s.high};
      }
      *first = pack_bf16(low.low, low.high);
      *second = pack_bf16(high.low, high.high);
    }
  }
}

template <typename F>
void with_head_parts(std::int64_t head_dim, F f) {
  with_rounded_head_dim(
      head_dim, [&](auto rounded) { f(std::integral_constant<int, decltype(rounded)::value / 8>{}); });
}

}  // namespace

void finish_heads(View x, ConstView bias, const std::array<LowRankTerm, 3>& terms, const HeadShape& shape,
                  ConstView cosines, ConstView sines, const Stream& stream) {
  CHECK(heads_fit(shape, x.type())) << "heads of " << shape.head_dim << " " << name_of(x.type());
  const std::int64_t all_heads = shape.heads + 2 * shape.kv_heads;
  CHECK_EQ(x.columns(), all_heads * shape.head_dim);
  CHECK(bias.empty() || (bias.rows() == 1 && bias.columns() == x.columns()))
      << bias.rows() << "x" << bias.columns();
  for (const ConstView& angles : {cosines, sines}) {
    CHECK(angles.rows() == x.rows() && angles.columns() == shape.head_dim / 2)
        << angles.rows() << "x" << angles.columns() << " for " << x.rows() << "x" << x.columns();
  }
  for (std::size_t p = 0; p < terms.size(); ++p) {
    if (!terms[p].u.empty())
      check_low_rank(terms[p], x.rows(), (p == 0 ? shape.heads : shape.kv_heads) * shape.head_dim);
  }
  if (x.empty()) return;
  check_aligned(x, sizeof(std::uint32_t));
  for (const ConstView& angles : {cosines, sines}) check_aligned(angles, sizeof(FloatPair));
  const HeadOperands a{
      rows_of<Bf16>(x),
      bias.empty() ? nullptr : elements<float>(bias),
      {low_rank_of(terms[0], x.rows()), low_rank_of(terms[1], x.rows()), low_rank_of(terms[2], x.rows())},
      rows_of<float>(cosines),
      rows_of<float>(sines),
      x.rows(),
      static_cast<int>(shape.heads),
      static_cast<int>(shape.kv_heads)};
  const dim3 grid(grid_size(tiles(x.rows(), kRowsOfTile)), small_grid_size(all_heads));
  with_head_parts(shape.head_dim, [&](auto parts) {
    launch(finish_heads_kernel<decltype(parts)::value>, grid, dim3(kTileThreads), 0, stream, a);
  });
}

}  // namespace biqa::cuda
