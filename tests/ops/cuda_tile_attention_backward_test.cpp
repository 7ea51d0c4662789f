// SPDX-License-Identifier: Apache-2.0
// The backward of attention on tensor cores: in the emulator, or on a device in builds with CUDA.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

#include "ops/cuda/attention_tiles.h"
#include "support/compare.h"
#include "support/cuda/aligned_output.h"
#include "support/cuda/device_test.h"
#include "support/op_cases.h"
#include "support/oracle.h"

namespace biqa {
namespace {

using cuda::QueryRows;
using cuda::QueryRun;
using cuda::SharedKeys;
using oracle::matrix_of;
using oracle::Real;
using testing::AlignedOutput;
using testing::DeviceTable;
using testing::ExpectedMatrix;
using testing::random_tensor;
using testing::relative_bound;
using testing::roundoff;
using testing::same_bits;

constexpr double kUnit = 0x1.0p-24;
constexpr double kExp2Error = 0x1.0p-22;  // of ex2.approx, relative

/// A prompt and the members that follow it, packed one behind the other, behind `kBefore` rows that no table names. Of the
/// prompt's rows the last `prompt_queries` have a query; query rows are packed without the others.
struct Group {
  std::int32_t prompt = 0, prompt_queries = 0;
  std::vector<std::int32_t> members;

  static constexpr std::int32_t kBefore = 2;
  std::int32_t keys() const { return std::accumulate(members.begin(), members.end(), kBefore + prompt); }
  std::int32_t queries() const { return keys() - prompt + prompt_queries; }

  std::vector<QueryRows> query_rows() const {
    const std::int32_t without = prompt - prompt_queries;
    std::vector<QueryRows> rows;
    if (prompt_queries > 0) rows.push_back({kBefore, prompt_queries, {kBefore, without + 1, 1}, {}});
    std::int32_t key = kBefore + prompt;
    for (const std::int32_t member : members) {
      rows.push_back({key - without, member, {kBefore, prompt, 0}, {key, 1, 1}});
      key += member;
    }
    return rows;
  }
  std::vector<SharedKeys> shared_keys() const {
    const std::int32_t without = prompt - prompt_queries;
    std::vector<SharedKeys> all{{kBefore, prompt, {}}};
    if (prompt_queries > 0) all[0].queries.push_back({kBefore, prompt_queries, without + 1, 1});
    std::int32_t key = kBefore + prompt;
    for (const std::int32_t member : members) {
      all[0].queries.push_back({key - without, member, prompt, 0});
      all.push_back({key, member, {{key - without, member, 1, 1}}});
      key += member;
    }
    return all;
  }
  /// By query row; empty for rows that no table names.
  oracle::Visible visible() const {
    oracle::Visible keys_of_row(static_cast<std::size_t>(queries()));
    for (const QueryRows& rows : query_rows()) {
      for (std::int32_t i = 0; i < rows.rows; ++i) {
        auto& seen = keys_of_row[static_cast<std::size_t>(rows.first_row) + static_cast<std::size_t>(i)];
        for (const cuda::KeyRun& run : {rows.keys, rows.own}) {
          for (std::int32_t k = 0; k < run.length + run.growth * i; ++k) seen.push_back(run.first + k);
        }
      }
    }
    return keys_of_row;
  }
};

struct Inputs {
  HeadShape shape;
  Group group;
  Tensor q, k, v, d_out, out, lse;
};
struct Gradients {
  Tensor q, k, v;
};

struct ExpectedGradients {
  ExpectedMatrix q, k, v;
};
struct Numbers {  // of one row and head
  std::vector<double> p, d_p, score_error, d_p_error;
  double delta = 0, delta_error = 0;
};

/// The formula for rounded operands, with the bounds that docs/numerics.md derives. Fills `inputs.out` (rounded to `output`) and
/// `inputs.lse` as the forward would.
class Expected {
 public:
  Expected(Inputs& inputs, DType output)
      : inputs_(inputs),
        shape_(inputs.shape),
        q_(matrix_of(inputs.q.view())),
        k_(matrix_of(inputs.k.view())),
        v_(matrix_of(inputs.v.view())),
        d_out_(oracle::rounded(matrix_of(inputs.d_out.view()), DType::bf16)),
        key_sum_error_(relative_bound(q_.rows * shape_.heads)) {
    const double root = std::sqrt(static_cast<double>(shape_.head_dim));
    const float factor = 1.44269504F / static_cast<float>(root);
    for (double& x : q_.values)
      x = to_float(to_bf16(static_cast<float>(x) * factor)) / (std::log2(std::exp(1.0)) / root);
    inputs.out = Tensor(output, q_.rows, q_.columns, "test");
    inputs.lse = Tensor(DType::f32, q_.rows, shape_.heads, "test");
  }
  ExpectedGradients gradients() {
    const oracle::Visible visible = inputs_.group.visible();
    Real d_q(q_.rows, q_.columns), d_k(k_.rows, k_.columns), d_v(k_.rows, k_.columns);
    Real q_bound = d_q, k_bound = d_k, v_bound = d_v;
    const std::int64_t dim = shape_.head_dim;
    const double scale = 1 / std::sqrt(static_cast<double>(dim));
    for (std::int64_t t = 0; t < q_.rows; ++t) {
      const auto& keys = visible[static_cast<std::size_t>(t)];
      for (std::int64_t h = 0; h < shape_.heads && !keys.empty(); ++h) {
        const std::int64_t kv = h / (shape_.heads / shape_.kv_heads) * dim;
        const Numbers n = numbers(t, h, keys);
        for (std::size_t j = 0; j < keys.size(); ++j) {
          const std::int64_t key = keys[j];
          const double rounding =
              roundoff(DType::bf16) + relative_bound(static_cast<std::int64_t>(keys.size()));
          const double ds = n.p[j] * (n.d_p[j] - n.delta);
          const double ds_error =
              n.p[j] * (n.score_error[j] * std::abs(n.d_p[j] - n.delta) + n.d_p_error[j] + n.delta_error) +
              (rounding + 3 * kUnit) * std::abs(ds);
          const double p_error = n.p[j] * (n.score_error[j] + roundoff(DType::bf16));
          for (std::int64_t d = 0; d < dim; ++d) {
            const double x_q = q_(t, h * dim + d);
            const double x_k = k_(key, kv + d);
            d_q(t, h * dim + d) += scale * ds * x_k;
            q_bound(t, h * dim + d) += scale * ds_error * std::abs(x_k);
            d_k(key, kv + d) += scale * ds * x_q;
            k_bound(key, kv + d) += scale * (ds_error + key_sum_error_ * std::abs(ds)) * std::abs(x_q);
            d_v(key, kv + d) += n.p[j] * d_out_(t, h * dim + d);
            v_bound(key, kv + d) += (p_error + key_sum_error_ * n.p[j]) * std::abs(d_out_(t, h * dim + d));
          }
        }
      }
    }
    ExpectedGradients expected{ExpectedMatrix(q_.rows, q_.columns), ExpectedMatrix(k_.rows, k_.columns),
                               ExpectedMatrix(k_.rows, k_.columns)};
    const auto fill = [](ExpectedMatrix& to, const Real& values, const Real& bounds, std::int64_t from) {
      for (std::int64_t r = from; r < values.rows; ++r) {
        for (std::int64_t c = 0; c < values.columns; ++c)
          to.set(r, c, values(r, c), bounds(r, c) + 3 * kUnit * std::abs(values(r, c)));
      }
    };
    fill(expected.q, d_q, q_bound, Group::kBefore);
    fill(expected.k, d_k, k_bound, Group::kBefore);
    fill(expected.v, d_v, v_bound, Group::kBefore);
    return expected;
  }

 private:
  Numbers numbers(std::int64_t t, std::int64_t h, const std::vector<std::int64_t>& keys) {
    const std::int64_t dim = shape_.head_dim;
    const std::int64_t kv = h / (shape_.heads / shape_.kv_heads) * dim;
    Numbers n;
    double log_sum = 0;
    n.p = oracle::probabilities(q_, k_, t, h * dim, kv, dim, keys, &log_sum);
    inputs_.lse.row<float>(t)[h] = static_cast<float>(log_sum);
    for (const std::int64_t key : keys) {
      double size = 0, d_p = 0, d_p_size = 0;
      for (std::int64_t d = 0; d < dim; ++d) {
        size += std::abs(q_(t, h * dim + d) * k_(key, kv + d));
        d_p += d_out_(t, h * dim + d) * v_(key, kv + d);
        d_p_size += std::abs(d_out_(t, h * dim + d) * v_(key, kv + d));
      }
      // The score, its difference to the logarithm of the sum, which is rounded twice, and the exponential.
      n.score_error.push_back((relative_bound(dim) + 5 * kUnit) * size / std::sqrt(static_cast<double>(dim)) +
                              3 * kUnit * std::abs(log_sum) + kExp2Error);
      n.d_p.push_back(d_p);
      n.d_p_error.push_back(relative_bound(dim) * d_p_size);
    }
    double delta_size = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
      double out = 0;
      for (std::size_t j = 0; j < keys.size(); ++j) out += n.p[j] * v_(keys[j], kv + d);
      if (inputs_.out.view().type() == DType::f32)
        inputs_.out.row<float>(t)[h * dim + d] = static_cast<float>(out);
      else
        inputs_.out.row<Bf16>(t)[h * dim + d] = to_bf16(static_cast<float>(out));
      n.delta += out * d_out_(t, h * dim + d);
      delta_size += std::abs(out * d_out_(t, h * dim + d));
    }
    n.delta_error = (roundoff(inputs_.out.view().type()) + relative_bound(dim)) * delta_size;
    return n;
  }
  Inputs& inputs_;
  HeadShape shape_;
  Real q_, k_, v_, d_out_;
  double key_sum_error_;  // of a sum over all query rows and heads
};

Inputs inputs_of(const HeadShape& shape, const Group& group, double size = 2) {
  const std::int64_t width = shape.heads * shape.head_dim;
  const std::int64_t kv_width = shape.kv_heads * shape.head_dim;
  return {shape,
          group,
          random_tensor(DType::f32, group.queries(), width, size, 11),
          random_tensor(DType::bf16, group.keys(), kv_width, size, 12),
          random_tensor(DType::bf16, group.keys(), kv_width, 2, 13),
          random_tensor(DType::f32, group.queries(), width, 2, 14),
          {},
          {}};
}

Gradients run(const Inputs& inputs) {
  const auto stream = std::make_shared<const cuda::Stream>();
  cuda::CudaMemory memory(stream);
  const HeadShape& shape = inputs.shape;
  const DeviceTable<cuda::QueryTile> tiles(
      cuda::query_tiles(inputs.group.query_rows(), shape.heads / shape.kv_heads), memory);
  const cuda::KeyBlocks blocks = cuda::key_blocks(inputs.group.shared_keys());
  const DeviceTable<cuda::KeyBlock> key_blocks(blocks.blocks, memory);
  const DeviceTable<QueryRun> runs(blocks.runs, memory);
  const auto on_device = [&memory](const Tensor& x) { return copied_to(memory, x.view(), "test"); };
  const Tensor q = on_device(inputs.q);
  const Tensor k = on_device(inputs.k);
  const Tensor v = on_device(inputs.v);
  const Tensor out = on_device(inputs.out);
  const Tensor lse = on_device(inputs.lse);
  const Tensor d_out = on_device(inputs.d_out);
  AlignedOutput d_q(DType::f32, q.rows(), q.columns(), memory);
  AlignedOutput d_k(DType::f32, k.rows(), k.columns(), memory);
  AlignedOutput d_v(DType::f32, v.rows(), v.columns(), memory);
  Arena scratch("test", memory);
  cuda::tile_attention_backward(q.view(), k.view(), v.view(), out.view(), lse.view(), d_out.view(), shape,
                                {tiles.span(), key_blocks.span(), runs.span()}, d_q.view(), d_k.view(),
                                d_v.view(), scratch, *stream);
  return {d_q.on_host(Group::kBefore), d_k.on_host(Group::kBefore), d_v.on_host(Group::kBefore)};
}

class CudaTileAttentionBackward : public testing::DeviceTest,
                                  public ::testing::WithParamInterface<HeadShape> {};
INSTANTIATE_TEST_SUITE_P(Shapes, CudaTileAttentionBackward,
                         ::testing::Values(HeadShape{4, 2, 8}, HeadShape{2, 1, 24}, HeadShape{2, 2, 40},
                                           HeadShape{3, 1, 80}, HeadShape{7, 1, 128}));

// Prompts and members around one block; all rows have a query, or of the prompt only its last ones or none.
TEST_P(CudaTileAttentionBackward, AgreesWithTheFormula) {
  for (const Group& group :
       {Group{90, 90, {70, 5}}, Group{65, 1, {1, 64, 40}}, Group{64, 0, {3}}, Group{20, 20, {}}}) {
    for (const DType output : {DType::f32, DType::bf16}) {
      Inputs inputs = inputs_of(GetParam(), group);
      const ExpectedGradients expected = Expected(inputs, output).gradients();
      const Gradients gradients = run(inputs);
      EXPECT_TRUE(expected.q.agrees_with(gradients.q.view())) << group.prompt << " " << name_of(output);
      EXPECT_TRUE(expected.k.agrees_with(gradients.k.view())) << group.prompt << " " << name_of(output);
      EXPECT_TRUE(expected.v.agrees_with(gradients.v.view())) << group.prompt << " " << name_of(output);
    }
  }
}

// Scores far from the maximum, whose weights vanish.
TEST_P(CudaTileAttentionBackward, AgreesForLargeScores) {
  Inputs inputs = inputs_of(GetParam(), {70, 70, {66}}, 8);
  const ExpectedGradients expected = Expected(inputs, DType::f32).gradients();
  const Gradients gradients = run(inputs);
  EXPECT_TRUE(expected.q.agrees_with(gradients.q.view()));
  EXPECT_TRUE(expected.k.agrees_with(gradients.k.view()));
  EXPECT_TRUE(expected.v.agrees_with(gradients.v.view()));
}

// Scores so low that a row of zeros would have an infinite weight beside them: steps of pairs have such rows at their end.
TEST_P(CudaTileAttentionBackward, AgreesForScoresFarBelowZero) {
  Inputs inputs = inputs_of(GetParam(), {5, 5, {3}});
  for (float& x : inputs.q.span<float>()) x += 8;
  for (Bf16& x : inputs.k.span<Bf16>()) x = to_bf16(to_float(x) - 8);
  const ExpectedGradients expected = Expected(inputs, DType::f32).gradients();
  EXPECT_LT(inputs.lse.row<float>(Group::kBefore)[0], -100);
  const Gradients gradients = run(inputs);
  EXPECT_TRUE(expected.q.agrees_with(gradients.q.view()));
  EXPECT_TRUE(expected.k.agrees_with(gradients.k.view()));
  EXPECT_TRUE(expected.v.agrees_with(gradients.v.view()));
}

TEST_P(CudaTileAttentionBackward, SameBitsInEveryOrderOfThreads) {
  Inputs inputs = inputs_of(GetParam(), {70, 30, {66, 3}});
  Expected(inputs, DType::bf16).gradients();
  const Gradients first = run(inputs);
  testing::in_every_order([&] {
    const Gradients again = run(inputs);
    EXPECT_TRUE(same_bits(first.q.view(), again.q.view()));
    EXPECT_TRUE(same_bits(first.k.view(), again.k.view()));
    EXPECT_TRUE(same_bits(first.v.view(), again.v.view()));
  });
}

// d_q of a row depends on that row alone, wherever it stands in its tile.
TEST_P(CudaTileAttentionBackward, ARowDoesNotDependOnItsTile) {
  const Group all{70, 70, {66}};
  const Group last{70, 33, {66}};
  Inputs inputs = inputs_of(GetParam(), all);
  Expected(inputs, DType::f32).gradients();
  const Gradients gradients = run(inputs);
  const auto tail = [&](const Tensor& x) {  // the rows of `last`
    Tensor rows = copied_to(host_memory(), x.view().row_range(37, last.queries()), "test");
    return rows;
  };
  const Inputs fewer{inputs.shape,
                     last,
                     tail(inputs.q),
                     copied_to(host_memory(), inputs.k.view(), "test"),
                     copied_to(host_memory(), inputs.v.view(), "test"),
                     tail(inputs.d_out),
                     tail(inputs.out),
                     tail(inputs.lse)};
  EXPECT_TRUE(same_bits(run(fewer).q.view().row_range(2, 99), gradients.q.view().row_range(39, 99)));
}

TEST(CudaKeyBlocks, ThoseThatMostRowsSeeComeFirst) {
  const cuda::KeyBlocks blocks =
      cuda::key_blocks({{5, 130, {{10, 130, 1, 1}, {140, 20, 130, 0}}}, {200, 3, {{0, 400, 3, 0}}}});
  ASSERT_EQ(blocks.blocks.size(), 4U);
  EXPECT_EQ(blocks.runs.size(), 3U);
  const std::array<std::int32_t, 4> first_keys{200, 5, 69, 133};
  const std::array<std::int32_t, 4> counts{3, 64, 64, 2};
  const std::array<std::int32_t, 4> positions{0, 0, 64, 128};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(blocks.blocks[i].first_key, first_keys[i]);
    EXPECT_EQ(blocks.blocks[i].keys, counts[i]);
    EXPECT_EQ(blocks.blocks[i].position, positions[i]);
    EXPECT_EQ(blocks.blocks[i].first_run, i == 0 ? 2 : 0);
    EXPECT_EQ(blocks.blocks[i].runs, i == 0 ? 1 : 2);
  }
}

#ifndef BIQA_ON_DEVICE
TEST(CudaTileAttentionBackwardDeathTest, RefusesRowsThatAreNotAligned) {
  Inputs inputs = inputs_of({1, 1, 8}, {3, 3, {}});
  Expected(inputs, DType::f32).gradients();
  const Tensor wide(DType::f32, inputs.q.rows(), 9, "test");
  const auto stream = std::make_shared<const cuda::Stream>();
  cuda::CudaMemory memory(stream);
  Arena scratch("test", memory);
  Tensor d(DType::f32, 5, 8, "test");
  EXPECT_DEATH(
      cuda::tile_attention_backward(wide.view().column_range(1, 8), inputs.k.view(), inputs.v.view(),
                                    inputs.out.view(), inputs.lse.view(), inputs.d_out.view(), inputs.shape,
                                    {}, d.view(), d.view(), d.view(), scratch, *stream),
      "not aligned to 8 bytes");
}
#endif

}  // namespace
}  // namespace biqa
