// SPDX-License-Identifier: Apache-2.0
// Attention on tile registers. `Tiles` stands for the registers of the processor or for simulated ones.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/cpu/tile_attention.h"
#include "ops/cpu/tile_shapes.h"

namespace biqa::cpu {
namespace {

constexpr std::int64_t kPage = 16;       // keys
constexpr std::int64_t kTileRow = 64;    // bytes of a whole row
constexpr std::int64_t kStepPairs = 16;  // pairs of elements of a step

/// Calls body<0>() … body<kCount − 1>(), for up to four tiles of sums.
template <int kCount, typename Body>
[[gnu::always_inline]] inline void for_tiles(const Body& body) {
  body.template operator()<0>();
  if constexpr (kCount > 1) body.template operator()<1>();
  if constexpr (kCount > 2) body.template operator()<2>();
  if constexpr (kCount > 3) body.template operator()<3>();
}

/// out [rows, padded_dim] (+)= weights [rows, keys] · values, for pages that follow each other or are listed in `pages`. The
/// sums of four blocks of 16 columns stay in tiles 0 to 3; tile 5 holds weights, tile 7 the values of a page.
struct WeightedValues {
  const Bf16* weights;
  std::int64_t weights_stride;  // elements
  const std::int32_t* pages;
  const Bf16* values;
  std::int64_t page_elements;
  std::int64_t padded_dim;
  float* out;

  const Bf16* page(std::int64_t p) const {
    return values + (pages != nullptr ? pages[p] : p) * page_elements;
  }
};

template <typename Tiles, int kBlocks>
[[gnu::always_inline]] inline void add_columns(const WeightedValues& w, std::int64_t column,
                                               std::int64_t first_page, std::int64_t end_page,
                                               bool accumulate) {
  const std::int64_t out_stride = w.padded_dim * 4;
  float* out = w.out + column;
  for_tiles<kBlocks>([&]<int kBlock>() {
    if (accumulate)
      Tiles::template load<kBlock>(out + kBlock * 16, out_stride);
    else
      Tiles::template zero<kBlock>();
  });
  for (std::int64_t p = first_page; p < end_page; ++p) {
    const Bf16* values = w.page(p) + 2 * column;
    Tiles::template load<5>(w.weights + p * kPage, w.weights_stride * 2);
    for_tiles<kBlocks>([&]<int kBlock>() {
      Tiles::template load<7>(values + kBlock * 32, w.padded_dim * 4);
      Tiles::template multiply<kBlock, 5, 7>();
    });
  }
  for_tiles<kBlocks>([&]<int kBlock>() { Tiles::template store<kBlock>(out + kBlock * 16, out_stride); });
}

template <typename Tiles>
void add_weighted_values(const WeightedValues& w, std::int64_t first_page, std::int64_t end_page,
                         bool accumulate) {
  std::int64_t column = 0;
  for (; column + 64 <= w.padded_dim; column += 64)
    add_columns<Tiles, 4>(w, column, first_page, end_page, accumulate);
  for (; column + 32 <= w.padded_dim; column += 32)
    add_columns<Tiles, 2>(w, column, first_page, end_page, accumulate);
  if (column < w.padded_dim) add_columns<Tiles, 1>(w, column, first_page, end_page, accumulate);
}

/// Tiles 0 to 5 have a row per query. A row has 64 bytes in tiles 0 to 4, and 32 bytes in tile 5. Tile 6 holds a step
/// of keys, tile 7 the values of a page.
template <typename Tiles>
void configure_attention(std::int64_t queries) {
  TileShapes shapes;
  for (int tile = 0; tile < 5; ++tile) shapes.set(tile, queries, kTileRow);
  shapes.set(5, queries, kTileRow / 2);
  shapes.set(6, 16, kTileRow);
  shapes.set(7, 8, kTileRow);
  Tiles::configure(shapes);
}

/// Scores of kPages pages from `p` on. Several sums hide the latency of a product.
template <typename Tiles, int kPages>
[[gnu::always_inline]] inline void page_scores(const TileAttention& b, std::int64_t p) {
  const auto keys = [&](std::int64_t page) {
    return b.keys + (b.pages != nullptr ? b.pages[page] : page) * b.page_elements;
  };
  for_tiles<kPages>([&]<int kAt>() { Tiles::template zero<kAt>(); });
  for (std::int64_t step = 0; step < b.dim_steps; ++step) {
    Tiles::template load<4>(b.q + step * 2 * kStepPairs, b.dim_steps * kTileRow);
    for_tiles<kPages>([&]<int kAt>() {
      Tiles::template load<6>(keys(p + kAt) + step * kStepPairs * 32, kTileRow);
      Tiles::template multiply<kAt, 4, 6>();
    });
  }
  for_tiles<kPages>(
      [&]<int kAt>() { Tiles::template store<kAt>(b.scores + (p + kAt) * kPage, b.scores_stride * 4); });
}

/// Whether `count` values, a multiple of 32, are finite.
bool all_finite(const Bf16* values, std::int64_t count) {
  using Words = std::uint32_t __attribute__((vector_size(64)));
  Words found{};
  for (std::int64_t i = 0; i < count; i += 32) {
    Words w;
    std::memcpy(&w, values + i, sizeof w);
    constexpr std::uint32_t kHigh = 0x7f800000U, kLow = 0x7f80U;  // exponents of infinities and NaN
    found |= static_cast<Words>((w & kHigh) == kHigh) | static_cast<Words>((w & kLow) == kLow);
  }
  std::uint32_t any = 0;
  for (int i = 0; i < 16; ++i) any |= found[i];
  return any == 0;
}

/// Copies the values of a page for its first `keys` keys. The values of the other keys become zero.
void copy_values(const Bf16* from, std::int64_t padded_dim, std::int64_t keys, Bf16* to) {
  for (std::int64_t key = 0; key < kPage; ++key) {
    const std::int64_t pair = key / 2 * padded_dim * 2 + key % 2;
    for (std::int64_t d = 0; d < padded_dim; ++d) to[pair + 2 * d] = key < keys ? from[pair + 2 * d] : Bf16{};
  }
}

/// Adds a page with infinite or NaN values. Some queries must not see these values, which belong to later rows or to
/// old content of the page. Their weight is zero, but 0 · NaN is NaN. So the function gives each query its own copy of
/// the page, with only the values that the query sees.
template <typename Tiles>
void add_page_by_query(const TileAttention& b, const WeightedValues& w, std::int64_t p) {
  WeightedValues one = w;
  one.values = b.page - p * b.page_elements;
  one.pages = nullptr;
  configure_attention<Tiles>(1);
  for (std::int64_t i = 0; i < b.queries; ++i) {
    copy_values(w.page(p), b.padded_dim, std::max<std::int64_t>(0, b.lengths[i] - p * kPage), b.page);
    one.weights = w.weights + i * w.weights_stride;
    one.out = w.out + i * w.padded_dim;
    add_weighted_values<Tiles>(one, p, p + 1, p > 0);
  }
  configure_attention<Tiles>(b.queries);
}

template <typename Tiles>
void tile_attention(TileAttention& b, const Kernels& k) {
  const std::int64_t longest = *std::max_element(b.lengths, b.lengths + b.queries);
  const std::int64_t shortest = *std::min_element(b.lengths, b.lengths + b.queries);
  const std::int64_t pages = (longest + kPage - 1) / kPage;
  configure_attention<Tiles>(b.queries);
  std::int64_t p = 0;
  for (; p + 4 <= pages; p += 4) page_scores<Tiles, 4>(b, p);
  for (; p < pages; ++p) page_scores<Tiles, 1>(b, p);
  for (std::int64_t i = 0; i < b.queries; ++i) {
    ScoreRow row{b.scores + i * b.scores_stride,
                 b.lengths[i],
                 pages * kPage,
                 b.scale,
                 reinterpret_cast<std::uint16_t*>(b.weights + i * b.scores_stride),
                 0,
                 0};
    k.softmax(row);
    b.sums[i] = row.sum;
    b.lse[i] = row.lse;
  }
  const WeightedValues w{b.weights, b.scores_stride, b.pages, b.values, b.page_elements, b.padded_dim, b.out};
  // Every query sees the first pages whole. A later page with only finite values is treated like these.
  std::int64_t first = 0;
  for (std::int64_t page = shortest / kPage; page < pages; ++page) {
    if (all_finite(w.page(page), kPage * b.padded_dim)) continue;
    if (first < page) add_weighted_values<Tiles>(w, first, page, first > 0);
    add_page_by_query<Tiles>(b, w, page);
    first = page + 1;
  }
  if (first < pages) add_weighted_values<Tiles>(w, first, pages, first > 0);
  Tiles::release();
}

/// Computes a page's scores for 32 queries in tiles 0 and 1, and its d_weights in tiles 2 and 3.
template <typename Tiles>
void backward_scores(const TileAttentionBackward& b, std::int64_t page, float* scores, float* d_weights) {
  const std::int64_t stride = b.dim_steps * kTileRow;
  const std::int64_t lower = 16 * b.dim_steps * 32;
  const std::int64_t at = page * b.dim_steps * kStepPairs * 32;
  Tiles::template zero<0>();
  Tiles::template zero<1>();
  Tiles::template zero<2>();
  Tiles::template zero<3>();
  for (std::int64_t step = 0; step < b.dim_steps; ++step) {
    const Bf16* q = b.q + step * 32;
    const Bf16* d_out = b.d_out + step * 32;
    Tiles::template load<6>(b.keys + at + step * kStepPairs * 32, kTileRow);
    Tiles::template load<7>(b.values + at + step * kStepPairs * 32, kTileRow);
    Tiles::template load<4>(q, stride);
    Tiles::template load<5>(q + lower, stride);
    Tiles::template multiply<0, 4, 6>();
    Tiles::template multiply<1, 5, 6>();
    Tiles::template load<4>(d_out, stride);
    Tiles::template load<5>(d_out + lower, stride);
    Tiles::template multiply<2, 4, 7>();
    Tiles::template multiply<3, 5, 7>();
  }
  Tiles::template store<0>(scores, kTileRow);
  Tiles::template store<1>(scores + 256, kTileRow);
  Tiles::template store<2>(d_weights, kTileRow);
  Tiles::template store<3>(d_weights + 256, kTileRow);
}

/// Adds a page's products with the 32 queries to its gradients: d_keys += qᵀ · d_scores, d_values += d_outᵀ · weights.
template <typename Tiles>
void add_page_gradients(const TileAttentionBackward& b, std::int64_t page, const std::uint32_t* weight_pairs,
                        const std::uint32_t* d_pairs) {
  Tiles::template load<6>(d_pairs, kTileRow);
  Tiles::template load<7>(weight_pairs, kTileRow);
  for (std::int64_t d = 0; d < b.padded_dim; d += 16) {
    float* d_keys = b.d_keys + (page * b.padded_dim + d) * kPage;
    float* d_values = b.d_values + (page * b.padded_dim + d) * kPage;
    Tiles::template load<0>(d_keys, kTileRow);
    Tiles::template load<1>(d_values, kTileRow);
    Tiles::template load<4>(b.q_transposed + d * kBackwardQueries, kTileRow);
    Tiles::template load<5>(b.d_out_transposed + d * kBackwardQueries, kTileRow);
    Tiles::template multiply<0, 4, 6>();
    Tiles::template multiply<1, 5, 7>();
    Tiles::template store<0>(d_keys, kTileRow);
    Tiles::template store<1>(d_values, kTileRow);
  }
}

template <typename Tiles>
void tile_attention_backward(const TileAttentionBackward& b, const Kernels& k) {
  const std::int64_t longest = *std::max_element(b.lengths, b.lengths + kBackwardQueries);
  const std::int64_t pages = (longest + kPage - 1) / kPage;
  float* scores = b.scratch;
  float* d_weights = scores + kBackwardQueries * kPage;
  auto* weight_pairs = reinterpret_cast<std::uint32_t*>(d_weights + kBackwardQueries * kPage);
  auto* d_pairs = weight_pairs + 16 * kPage;
  TileShapes whole;
  for (int tile = 0; tile < 8; ++tile) whole.set(tile, 16, kTileRow);
  Tiles::configure(whole);
  for (std::int64_t page = 0; page < pages; ++page) {
    backward_scores<Tiles>(b, page, scores, d_weights);
    k.score_gradients({scores, d_weights, b.lse, b.delta, b.lengths, page * kPage, b.scale,
                       reinterpret_cast<std::uint16_t*>(b.d_scores + page * kPage), b.d_scores_stride,
                       weight_pairs, d_pairs});
    add_page_gradients<Tiles>(b, page, weight_pairs, d_pairs);
  }
  configure_attention<Tiles>(16);
  for (std::int64_t first = 0; first < kBackwardQueries; first += 16) {
    add_weighted_values<Tiles>(
        {b.d_scores + first * b.d_scores_stride, b.d_scores_stride, nullptr, b.key_pairs,
         kPage * b.padded_dim, b.padded_dim, b.d_q + first * b.padded_dim},
        0, pages, false);
  }
  Tiles::release();
}

}  // namespace
}  // namespace biqa::cpu
