// SPDX-License-Identifier: Apache-2.0
// Attention on the processor's tile registers gives the bits of the simulated ones. ops.attention.simulated_tiles holds these
// against the formula on every machine.
#include "ops/cpu/tile_attention.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "ops/cpu/cpu_ops.h"
#include "support/compare.h"
#include "support/op_cases.h"

namespace biqa {
namespace {

using testing::AttentionCase;
using testing::random_tensor;
using testing::same_bits;

/// Forward over pages and in segments, and backward, of one case.
struct Results {
  Tensor out, lse, segments, d_q, d_k, d_v;
};

Results results_of(const AttentionCase& c, const cpu::TileSet* tiles) {
  const HeadShape& shape = c.shape;
  const std::int64_t q_width = shape.heads * shape.head_dim;
  const std::int64_t kv_width = shape.kv_heads * shape.head_dim;
  CpuOps ops(DType::bf16, 2, tiles);
  const Tensor q = random_tensor(DType::f32, c.length, q_width, 2, c.seed);
  const Tensor k = random_tensor(DType::f32, c.length, kv_width, 2, c.seed + 1);
  const Tensor v = random_tensor(DType::f32, c.length, kv_width, 2, c.seed + 2);
  const Tensor d_out = random_tensor(DType::f32, c.length, q_width, 2, c.seed + 3);
  Results r{
      Tensor(DType::bf16, c.length, q_width, "test"),  Tensor(DType::f32, c.length, shape.heads, "test"),
      Tensor(DType::bf16, c.length, kv_width, "test"), Tensor(DType::f32, c.length, q_width, "test"),
      Tensor(DType::f32, c.length, kv_width, "test"),  Tensor(DType::f32, c.length, kv_width, "test")};
  const std::int64_t elements = kv_page_elements(shape, DType::bf16);
  std::vector<std::int32_t> pages(static_cast<std::size_t>((c.length + kPageTokens - 1) / kPageTokens));
  std::iota(pages.rbegin(), pages.rend(), 0);
  Tensor storage(DType::bf16, 1, static_cast<std::int64_t>(pages.size()) * elements, "test");
  storage.zero();
  const KvPages store{storage.view().data(), DType::bf16, elements};
  std::vector<KvWrite> writes;
  for (std::int64_t i = 0; i < c.length; ++i) {
    writes.push_back({static_cast<std::int32_t>(i), pages[static_cast<std::size_t>(i / kPageTokens)],
                      static_cast<std::int32_t>(i % kPageTokens)});
  }
  ops.write_kv(k.view(), v.view(), shape, writes, store);
  const AttentionRows rows{0, c.length, 0, pages.data()};
  ops.attention(q.view(), store, shape, std::span(&rows, 1), r.out.view(), r.lse.view());
  const std::array<std::int64_t, 3> boundaries{0, c.length / 3, c.length};
  ops.segment_attention(k.view(), k.view(), v.view(), {shape.kv_heads, shape.kv_heads, shape.head_dim},
                        boundaries, r.segments.view());
  const std::vector<SharedPromptRows> group{{0, c.length, 0, c.length, {}}};
  ops.attention_backward(q.view(), k.view(), v.view(), r.out.view(), r.lse.view(), d_out.view(), shape,
                         DType::bf16, group, r.d_q.view(), r.d_k.view(), r.d_v.view());
  return r;
}

class TileAttentionCases : public ::testing::TestWithParam<AttentionCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, TileAttentionCases, ::testing::ValuesIn(testing::attention_cases()));

TEST_P(TileAttentionCases, SimulatedRegistersGiveTheBitsOfTheProcessor) {
  if (cpu::amx_tiles() == nullptr) GTEST_SKIP() << "this processor has no tile registers (AMX)";
  const Results own = results_of(GetParam(), cpu::amx_tiles());
  const Results simulated = results_of(GetParam(), cpu::scalar_tiles());
  EXPECT_TRUE(same_bits(own.out.view(), simulated.out.view()));
  EXPECT_TRUE(same_bits(own.lse.view(), simulated.lse.view()));
  EXPECT_TRUE(same_bits(own.segments.view(), simulated.segments.view()));
  EXPECT_TRUE(same_bits(own.d_q.view(), simulated.d_q.view()));
  EXPECT_TRUE(same_bits(own.d_k.view(), simulated.d_k.view()));
  EXPECT_TRUE(same_bits(own.d_v.view(), simulated.d_v.view()));
}

// The processor's sums of such values underflow to 0 or −0. A query must not get another zero because a page that it does not
// see follows, which is multiplied for other queries of its tile.
TEST(TileAttention, TheSignOfASumThatUnderflowsDoesNotDependOnOtherRows) {
  const HeadShape shape{1, 1, 128};
  const std::int64_t preceding = 8;  // so that the queries of a tile end in different pages
  const std::int64_t rows = 72;
  CpuOps ops(DType::bf16, 1, cpu::scalar_tiles());
  const Tensor q = random_tensor(DType::f32, rows, shape.head_dim, 1, 1);
  const Tensor k = random_tensor(DType::f32, preceding + rows, shape.head_dim, 1, 2);
  const Tensor v = random_tensor(DType::f32, preceding + rows, shape.head_dim, 1e-37, 3);
  std::array<std::int32_t, 5> pages{};
  std::iota(pages.begin(), pages.end(), 0);
  const std::int64_t elements = kv_page_elements(shape, DType::bf16);
  Tensor storage(DType::bf16, 1, std::ssize(pages) * elements, "test");
  storage.zero();
  const KvPages store{storage.view().data(), DType::bf16, elements};
  std::vector<KvWrite> writes;
  writes.reserve(static_cast<std::size_t>(preceding + rows));
  for (std::int32_t i = 0; i < preceding + rows; ++i) writes.push_back({i, i / 16, i % 16});
  ops.write_kv(k.view(), v.view(), shape, writes, store);
  Tensor out(DType::bf16, rows, shape.head_dim, "test");
  const AttentionRows all{0, rows, preceding, pages.data()};
  ops.attention(q.view(), store, shape, std::span(&all, 1), out.view(), View{});
  Tensor alone(DType::bf16, 1, shape.head_dim, "test");
  for (std::int64_t row = 0; row < rows; ++row) {
    const AttentionRows one{0, 1, preceding + row, pages.data()};
    ops.attention(q.view().row_range(row, 1), store, shape, std::span(&one, 1), alone.view(), View{});
    EXPECT_TRUE(same_bits(out.view().row_range(row, 1), alone.view())) << row;
  }
}

// The only key of a query has the weight 1, so the gradient of its score is 0: d_out · value − Σ d_out ⊙ out. Both must take the
// same rounding of d_out.
TEST(TileAttention, TheOnlyKeyOfAQueryHasNoGradient) {
  const HeadShape shape{1, 1, 64};
  const std::int64_t dim = shape.head_dim;
  CpuOps ops(DType::bf16, 1, cpu::scalar_tiles());
  const Tensor q = random_tensor(DType::f32, 1, dim, 1, 1);
  const Tensor k = random_tensor(DType::f32, 1, dim, 1, 2);
  const Tensor v = random_tensor(DType::f32, 1, dim, 1, 3);
  const Tensor d_out = random_tensor(DType::f32, 1, dim, 1, 4);
  Tensor out(DType::bf16, 1, dim, "test");
  ops.convert(v.view(), out.view());
  Tensor lse(DType::f32, 1, 1, "test");
  double score = 0;
  double products = 0;
  for (std::int64_t d = 0; d < dim; ++d) {
    score +=
        static_cast<double>(to_float(to_bf16(q.row<float>(0)[d]))) * to_float(to_bf16(k.row<float>(0)[d]));
    products += std::abs(static_cast<double>(d_out.row<float>(0)[d]) * v.row<float>(0)[d]);
  }
  lse.row<float>(0)[0] = static_cast<float>(score / 8);
  Tensor d_q(DType::f32, 1, dim, "test");
  Tensor d_k(DType::f32, 1, dim, "test");
  Tensor d_v(DType::f32, 1, dim, "test");
  const std::vector<SharedPromptRows> group{{0, 1, 0, 1, {}}};
  ops.attention_backward(q.view(), k.view(), v.view(), out.view(), lse.view(), d_out.view(), shape,
                         DType::bf16, group, d_q.view(), d_k.view(), d_v.view());
  // Two dot products, times 1/√64 and an element of at most 1. The operands' roundings are covered by the factor 1.1.
  const double bound = 1.1 * 2 * testing::relative_bound(dim) * products / 8;
  for (std::int64_t d = 0; d < dim; ++d) {
    EXPECT_LE(std::abs(d_q.row<float>(0)[d]), bound) << d;
    EXPECT_LE(std::abs(d_k.row<float>(0)[d]), bound) << d;
  }
}

// Both members' keys take turns in the pages after the prompt's. What the longer one leaves there has the weight 0 for the other.
TEST(TileAttention, KeysOfALongerMemberAreNotSeenByTheNext) {
  const HeadShape shape{2, 1, 64};
  const std::int64_t prompt = 4, longer = 12, shorter = 3, rows = prompt + longer + shorter;
  const std::vector<SharedPromptRows> group{
      {0, prompt, 0, prompt, {{prompt, longer, prompt}, {prompt + longer, shorter, prompt + longer}}}};
  CpuOps ops(DType::bf16, 1, cpu::scalar_tiles());
  const Tensor q = random_tensor(DType::f32, rows, 128, 1, 1);
  const Tensor v = random_tensor(DType::f32, rows, 64, 1, 3);
  const Tensor d_out = random_tensor(DType::f32, rows, 128, 1, 4);
  const Tensor out = random_tensor(DType::bf16, rows, 128, 1, 5);
  const Tensor lse = random_tensor(DType::f32, rows, 2, 1, 6);
  Tensor k = random_tensor(DType::f32, rows, 64, 1, 2);
  const auto gradient = [&] {
    Tensor d_q(DType::f32, rows, 128, "test");
    Tensor d_k(DType::f32, rows, 64, "test");
    Tensor d_v(DType::f32, rows, 64, "test");
    ops.attention_backward(q.view(), k.view(), v.view(), out.view(), lse.view(), d_out.view(), shape,
                           DType::bf16, group, d_q.view(), d_k.view(), d_v.view());
    return d_q;
  };
  const Tensor clean = gradient();
  k.row<float>(prompt + longer - 1)[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(same_bits(clean.view().row_range(prompt + longer, shorter),
                        gradient().view().row_range(prompt + longer, shorter)));
}

}  // namespace
}  // namespace biqa
