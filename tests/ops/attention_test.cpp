// SPDX-License-Identifier: Apache-2.0
// Attention over pages, forward and backward, against the formula.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "support/compare.h"
#include "support/operations.h"
#include "support/oracle.h"

namespace biqa {
namespace {

using oracle::Complex;
using oracle::matrix_of;
using oracle::Real;
using testing::AttentionBackwardCase;
using testing::AttentionCase;
using testing::ExpectedMatrix;
using testing::random_tensor;
using testing::relative_bound;
using testing::roundoff;
using testing::same_bits;

constexpr double kUnit = 0x1.0p-24;
/// The exponential, its argument's scale and maximum, the sum's reciprocal, products.
constexpr double kSoftmaxUnits = 12 * kUnit;

/// Keys and values of some sequences, in pages that are handed out in a scattered order.
class Paged {
 public:
  Paged(testing::Operations& ops, const HeadShape& shape, std::int64_t pages)
      : page_tokens_(ops.page_tokens()),
        store_(ops.make_pages(shape, pages)),
        order_(random_order(static_cast<std::size_t>(pages), RandomStream{7})) {}
  KvStore& store() { return *store_; }
  std::vector<std::int32_t> take(std::int64_t tokens) {
    std::vector<std::int32_t> taken;
    for (std::int64_t i = 0; i < tokens; i += page_tokens_) {
      taken.push_back(static_cast<std::int32_t>(order_.back()));
      order_.pop_back();
    }
    return taken;
  }
  /// Writes of `rows` rows from `first_row` to the places from `position` on in the sequence with these pages.
  void add_writes(std::vector<KvWrite>& writes, const std::vector<std::int32_t>& pages,
                  std::int64_t first_row, std::int64_t rows, std::int64_t position) const {
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t at = position + i;
      writes.push_back({static_cast<std::int32_t>(first_row + i),
                        pages[static_cast<std::size_t>(at / page_tokens_)],
                        static_cast<std::int32_t>(at % page_tokens_)});
    }
  }

 private:
  std::int64_t page_tokens_;
  std::unique_ptr<KvStore> store_;
  std::vector<std::size_t> order_;
};

/// Pages for each of these numbers of tokens.
std::int64_t pages_for(const testing::Operations& ops, std::initializer_list<std::int64_t> tokens) {
  std::int64_t pages = 0;
  for (const std::int64_t count : tokens) pages += (count + ops.page_tokens() - 1) / ops.page_tokens();
  return pages;
}

/// `m` as a backend's attention takes the factors of its products.
Real as_factor(const testing::Operations& ops, const Real& m) {
  return ops.rounds_attention() ? oracle::rounded(m, DType::bf16) : m;
}

/// Bounds for softmax(q·Kᵀ/√D)·V of one element: a score is off by `score_error`, which is a relative error
/// of its probability; the weighted sum adds its own, and the roundings of the weights if `weights_rounded`.
ExpectedMatrix expected_attention(const Real& q, const Real& k, const Real& v, const HeadShape& shape,
                                  const oracle::Visible& visible, DType output, bool weights_rounded) {
  const Real out = oracle::attention(q, k, v, shape.heads, shape.kv_heads, visible);
  ExpectedMatrix expected(q.rows, q.columns);
  const std::int64_t dim = shape.head_dim;
  for (std::int64_t t = 0; t < q.rows; ++t) {
    const auto& keys = visible[static_cast<std::size_t>(t)];
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      const std::int64_t k_column = h / (shape.heads / shape.kv_heads) * dim;
      const std::vector<double> p = oracle::probabilities(q, k, t, h * dim, k_column, dim, keys);
      double largest = 0;
      for (const std::int64_t j : keys) {
        double size = 0;
        for (std::int64_t d = 0; d < dim; ++d) size += std::abs(q(t, h * dim + d) * k(j, k_column + d));
        largest = std::max(largest, size);
      }
      const double score_error =
          (relative_bound(dim) + 3 * kUnit) * largest / std::sqrt(static_cast<double>(dim));
      const double relative = 2 * score_error + 2 * relative_bound(static_cast<std::int64_t>(keys.size())) +
                              kSoftmaxUnits + (weights_rounded ? roundoff(DType::bf16) : 0);
      for (std::int64_t d = 0; d < dim; ++d) {
        double magnitude = 0;
        for (std::size_t j = 0; j < keys.size(); ++j) magnitude += p[j] * std::abs(v(keys[j], k_column + d));
        const double value = out(t, h * dim + d);
        expected.set(t, h * dim + d, value, relative * magnitude + roundoff(output) * std::abs(value));
      }
    }
  }
  return expected;
}

class Attention : public ::testing::TestWithParam<AttentionCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, Attention, ::testing::ValuesIn(testing::attention_cases()));

TEST_P(Attention, AgreesWithTheFormula) {
  const AttentionCase& c = GetParam();
  const HeadShape& shape = c.shape;
  const DType type = c.type;
  const auto ops = testing::make_operations(type, 2);
  std::int64_t total = 0;
  std::int64_t stored = 0;
  std::int64_t page_count = 0;
  for (const auto& [rows, preceding] : c.sequences) {
    total += rows;
    stored += preceding;
    page_count += pages_for(*ops, {rows + preceding});
  }
  const Tensor q = random_tensor(DType::f32, total, shape.heads * shape.head_dim, 2, c.seed);
  const Tensor k = random_tensor(DType::f32, stored + total, shape.kv_heads * shape.head_dim, 2, c.seed + 1);
  const Tensor v = random_tensor(DType::f32, stored + total, shape.kv_heads * shape.head_dim, 2, c.seed + 2);
  Paged paged(*ops, shape, page_count);
  std::vector<std::vector<std::int32_t>> pages;
  std::vector<KvWrite> writes;
  std::vector<AttentionRows> sequences;
  oracle::Visible visible;
  std::int64_t row = 0;
  std::int64_t stored_row = 0;
  for (const auto& [rows, preceding] : c.sequences) {
    pages.push_back(paged.take(preceding + rows));
    paged.add_writes(writes, pages.back(), stored_row, preceding, 0);
    paged.add_writes(writes, pages.back(), stored + row, rows, preceding);
    std::vector<std::int64_t> keys(static_cast<std::size_t>(preceding));
    std::iota(keys.begin(), keys.end(), stored_row);
    for (std::int64_t i = 0; i < rows; ++i) {
      keys.push_back(stored + row + i);
      visible.push_back(keys);
    }
    sequences.push_back({row, rows, preceding, pages.back().data()});
    row += rows;
    stored_row += preceding;
  }
  ops->write_kv(k.view(), v.view(), shape, writes, paged.store());
  Tensor out(type, total, shape.heads * shape.head_dim, "test");
  Tensor lse(DType::f32, total, shape.heads, "test");
  ops->attention(q.view(), paged.store(), shape, sequences, out.view(), lse.view());

  const Real keys = oracle::rounded(matrix_of(k.view()), type);
  const Real values = oracle::rounded(matrix_of(v.view()), type);
  const Real queries = as_factor(*ops, matrix_of(q.view()));
  EXPECT_TRUE(expected_attention(queries, keys, values, shape, visible, type, ops->rounds_attention())
                  .agrees_with(out.view()));
  std::int64_t longest = 0;  // keys of a query
  for (const auto& [rows, preceding] : c.sequences) longest = std::max(longest, rows + preceding);
  ExpectedMatrix expected_lse(total, shape.heads);
  for (std::int64_t t = 0; t < total; ++t) {
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      double log_sum = 0;
      oracle::probabilities(queries, keys, t, h * shape.head_dim,
                            h / (shape.heads / shape.kv_heads) * shape.head_dim, shape.head_dim,
                            visible[static_cast<std::size_t>(t)], &log_sum);
      // Scores are sums of head_dim products below 4, divided by √head_dim.
      const double score = 4 * std::sqrt(static_cast<double>(shape.head_dim));
      expected_lse.set(t, h, log_sum,
                       (relative_bound(shape.head_dim) + 4 * kUnit) * score + relative_bound(longest) +
                           4 * kUnit * std::abs(log_sum));
    }
  }
  EXPECT_TRUE(expected_lse.agrees_with(lse.view()));

  Tensor without(type, total, shape.heads * shape.head_dim, "test");
  ops->attention(q.view(), paged.store(), shape, sequences, without.view(), View{});
  EXPECT_TRUE(same_bits(out.view(), without.view()));
}

TEST_P(Attention, ARowDoesNotDependOnItsBatchOrTheThreads) {
  const AttentionCase& c = GetParam();
  const HeadShape& shape = c.shape;
  const DType type = c.type;
  const Tensor q = random_tensor(DType::f32, c.length, shape.heads * shape.head_dim, 2, c.seed);
  const Tensor k = random_tensor(DType::f32, c.length, shape.kv_heads * shape.head_dim, 2, c.seed + 1);
  const Tensor v = random_tensor(DType::f32, c.length, shape.kv_heads * shape.head_dim, 2, c.seed + 2);
  const auto single = testing::make_operations(type, 1);
  Paged paged(*single, shape, pages_for(*single, {c.length}));
  const auto pages = paged.take(c.length);
  Tensor alone(type, c.length, q.columns(), "test");
  for (std::int64_t t = 0; t < c.length; ++t) {  // token by token, each written just before it is read
    std::vector<KvWrite> writes;
    paged.add_writes(writes, pages, t, 1, t);
    single->write_kv(k.view(), v.view(), shape, writes, paged.store());
    const AttentionRows one{0, 1, t, pages.data()};
    single->attention(q.view().row_range(t, 1), paged.store(), shape, std::span(&one, 1),
                      alone.view().row_range(t, 1), View{});
  }
  for (const int threads : {1, 2}) {
    const auto ops = testing::make_operations(type, threads);
    for (const std::int64_t rows : c.batches) {
      const std::int64_t first = c.length - rows;
      Tensor out(type, rows, q.columns(), "test");
      // The rows as one sequence, and as if each were its own.
      const AttentionRows whole{0, rows, first, pages.data()};
      ops->attention(q.view().row_range(first, rows), paged.store(), shape, std::span(&whole, 1), out.view(),
                     View{});
      EXPECT_TRUE(same_bits(out.view(), alone.view().row_range(first, rows))) << rows << " rows, " << threads;
      std::vector<AttentionRows> each;
      for (std::int64_t i = 0; i < rows; ++i) each.push_back({i, 1, first + i, pages.data()});
      out.zero();
      ops->attention(q.view().row_range(first, rows), paged.store(), shape, each, out.view(), View{});
      EXPECT_TRUE(same_bits(out.view(), alone.view().row_range(first, rows)))
          << rows << " sequences, " << threads;
    }
  }
}

TEST_P(Attention, SegmentsAgreeWithTheFormula) {
  const AttentionCase& c = GetParam();
  const HeadShape shape{c.shape.heads, c.shape.heads, c.shape.head_dim};
  const DType type = c.type;
  const std::vector<std::int64_t>& boundaries = c.boundaries;
  const std::int64_t rows = boundaries.back();
  const std::int64_t width = shape.heads * shape.head_dim;
  const Tensor qkv = random_tensor(DType::f32, rows, 3 * width, 2, c.seed + 3);
  const ConstView q = qkv.view().column_range(0, width);
  const ConstView k = qkv.view().column_range(width, width);
  const ConstView v = qkv.view().column_range(2 * width, width);
  oracle::Visible visible;
  for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
    std::vector<std::int64_t> keys(static_cast<std::size_t>(boundaries[s + 1] - boundaries[s]));
    std::iota(keys.begin(), keys.end(), boundaries[s]);
    visible.insert(visible.end(), keys.size(), keys);
  }
  const auto any = testing::make_operations(type, 1);
  const ExpectedMatrix expected =
      expected_attention(as_factor(*any, matrix_of(q)), as_factor(*any, matrix_of(k)),
                         as_factor(*any, matrix_of(v)), shape, visible, type, any->rounds_attention());
  Tensor first(type, rows, width, "test");
  for (const int threads : {1, 2}) {
    const auto ops = testing::make_operations(type, threads);
    Tensor out(type, rows, width, "test");
    ops->segment_attention(q, k, v, shape, boundaries, out.view());
    EXPECT_TRUE(expected.agrees_with(out.view())) << threads;
    if (threads == 1) {
      first = std::move(out);
    } else {
      EXPECT_TRUE(same_bits(first.view(), out.view()));
    }
  }
}

/// The rows of a case of attention backward.
struct Grouped {
  std::vector<SharedPromptRows> groups;
  oracle::Visible visible;
  std::int64_t keys = 0, queries = 0;

  explicit Grouped(const AttentionBackwardCase& c) {
    for (const auto& [prompt, members] : c.groups) add(prompt, c.last ? 1 : prompt, members);
  }

 private:
  void add(std::int64_t prompt, std::int64_t prompt_queries, const std::vector<std::int64_t>& members) {
    SharedPromptRows group{keys, prompt, queries, prompt_queries, {}};
    std::vector<std::int64_t> seen(static_cast<std::size_t>(prompt - prompt_queries));
    std::iota(seen.begin(), seen.end(), keys);
    for (std::int64_t i = prompt - prompt_queries; i < prompt; ++i) {
      seen.push_back(keys + i);
      visible.push_back(seen);
    }
    keys += prompt;
    queries += prompt_queries;
    for (const std::int64_t rows : members) {
      group.members.push_back({keys, rows, queries});
      std::vector<std::int64_t> behind = seen;
      for (std::int64_t i = 0; i < rows; ++i) {
        behind.push_back(keys + i);
        visible.push_back(behind);
      }
      keys += rows;
      queries += rows;
    }
    groups.push_back(std::move(group));
  }
};

class AttentionBackward : public ::testing::TestWithParam<AttentionBackwardCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, AttentionBackward, ::testing::ValuesIn(testing::attention_backward_cases()));

TEST_P(AttentionBackward, IsTheDerivative) {
  const AttentionBackwardCase& c = GetParam();
  const HeadShape& shape = c.shape;
  const std::int64_t dim = shape.head_dim;
  const Grouped rows(c);
  const Tensor q = random_tensor(DType::f32, rows.queries, shape.heads * dim, 2, c.seed);
  const Tensor k = random_tensor(DType::f32, rows.keys, shape.kv_heads * dim, 2, c.seed + 1);
  const Tensor v = random_tensor(DType::f32, rows.keys, shape.kv_heads * dim, 2, c.seed + 2);
  const Tensor d_out = random_tensor(DType::f32, rows.queries, shape.heads * dim, 2, c.seed + 3);
  const auto single = testing::make_operations(c.type, 1);
  const bool rounds = single->rounds_attention();
  const Real qs = as_factor(*single, matrix_of(q.view()));
  const Real ks = oracle::rounded(matrix_of(k.view()), c.type);
  const Real vs = oracle::rounded(matrix_of(v.view()), c.type);
  const Real ds = as_factor(*single, matrix_of(d_out.view()));

  // out and lse as a forward would leave them.
  const Real result = oracle::attention(qs, ks, vs, shape.heads, shape.kv_heads, rows.visible);
  Tensor out(c.type, rows.queries, shape.heads * dim, "test");
  Tensor lse(DType::f32, rows.queries, shape.heads, "test");
  Tensor exact(DType::f32, rows.queries, shape.heads * dim, "test");
  for (std::size_t i = 0; i < result.values.size(); ++i)
    exact.span<float>()[i] = static_cast<float>(result.values[i]);
  single->convert(exact.view(), out.view());

  // Magnitudes of the sums, for the bounds.
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  Real q_bound(qs.rows, qs.columns);
  Real k_bound(ks.rows, ks.columns);
  Real v_bound(vs.rows, vs.columns);
  double score_error = 0;
  for (std::int64_t t = 0; t < qs.rows; ++t) {
    const auto& keys = rows.visible[static_cast<std::size_t>(t)];
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      const std::int64_t column = h / (shape.heads / shape.kv_heads) * dim;
      double log_sum = 0;
      const auto p = oracle::probabilities(qs, ks, t, h * dim, column, dim, keys, &log_sum);
      lse.row<float>(t)[h] = static_cast<float>(log_sum);
      double delta = 0;
      for (std::int64_t d = 0; d < dim; ++d) delta += std::abs(ds(t, h * dim + d) * result(t, h * dim + d));
      // The forward's output is rounded to the compute type before Σ d_out ⊙ out is taken of it.
      const double rounding = roundoff(c.type) / kUnit;
      for (std::size_t j = 0; j < keys.size(); ++j) {
        double products = 0;
        double size = std::abs(log_sum);
        for (std::int64_t d = 0; d < dim; ++d) {
          products += std::abs(ds(t, h * dim + d) * vs(keys[j], column + d));
          size += scale * std::abs(qs(t, h * dim + d) * ks(keys[j], column + d));
        }
        score_error = std::max(score_error, size);
        const double d_score = p[j] * scale * (products + delta + rounding * delta / 32);
        for (std::int64_t d = 0; d < dim; ++d) {
          q_bound(t, h * dim + d) += d_score * std::abs(ks(keys[j], column + d));
          k_bound(keys[j], column + d) += d_score * std::abs(qs(t, h * dim + d));
          v_bound(keys[j], column + d) += p[j] * std::abs(ds(t, h * dim + d));
        }
      }
    }
  }
  const double relative = (relative_bound(dim) + 4 * kUnit) * score_error + relative_bound(dim) +
                          relative_bound(64) + 32 * kUnit + (rounds ? roundoff(DType::bf16) : 0);

  const Complex q_complex = oracle::complex_of(qs);
  const Complex k_complex = oracle::complex_of(ks);
  const Complex v_complex = oracle::complex_of(vs);
  const auto loss = [&](const Complex& a, const Complex& b, const Complex& e) {
    return oracle::contract(ds, oracle::attention(a, b, e, shape.heads, shape.kv_heads, rows.visible));
  };
  // Some elements of each row and head, never the same ones: an element costs the oracle a whole forward.
  const std::size_t stride = dim <= 8 ? 7 : dim <= 20 ? 23 : 211;
  const auto expected_of = [&](const Real& x, const Real& bound, const auto& function) {
    const Real g = oracle::gradient(x, function, stride);
    ExpectedMatrix expected(x.rows, x.columns);
    for (std::size_t i = 0; i < g.values.size(); i += stride) {
      const auto at = static_cast<std::int64_t>(i);
      expected.set(at / x.columns, at % x.columns, g.values[i],
                   relative * bound.values[i] + kUnit * std::abs(g.values[i]));
    }
    return expected;
  };
  const auto d_q_expected =
      expected_of(qs, q_bound, [&](const Complex& z) { return loss(z, k_complex, v_complex); });
  const auto d_k_expected =
      expected_of(ks, k_bound, [&](const Complex& z) { return loss(q_complex, z, v_complex); });
  const auto d_v_expected =
      expected_of(vs, v_bound, [&](const Complex& z) { return loss(q_complex, k_complex, z); });

  Tensor first_q, first_k, first_v;
  for (const int threads : {1, 2}) {
    const auto ops = testing::make_operations(c.type, threads);
    Tensor d_q(DType::f32, q.rows(), q.columns(), "test");
    Tensor d_k(DType::f32, k.rows(), k.columns(), "test");
    Tensor d_v(DType::f32, v.rows(), v.columns(), "test");
    ops->attention_backward(q.view(), k.view(), v.view(), out.view(), lse.view(), d_out.view(), shape, c.type,
                            rows.groups, d_q.view(), d_k.view(), d_v.view());
    EXPECT_TRUE(d_q_expected.agrees_with(d_q.view())) << threads << " threads, d_q";
    EXPECT_TRUE(d_k_expected.agrees_with(d_k.view())) << threads << " threads, d_k";
    EXPECT_TRUE(d_v_expected.agrees_with(d_v.view())) << threads << " threads, d_v";
    if (threads == 1) {
      first_q = std::move(d_q);
      first_k = std::move(d_k);
      first_v = std::move(d_v);
    } else {
      EXPECT_TRUE(same_bits(first_q.view(), d_q.view()) && same_bits(first_k.view(), d_k.view()) &&
                  same_bits(first_v.view(), d_v.view()));
    }
  }
}

/// What is infinite or no number, and must not be seen where it isn't looked at.
constexpr std::array<float, 3> kNotFinite{std::numeric_limits<float>::quiet_NaN(),
                                          std::numeric_limits<float>::infinity(),
                                          -std::numeric_limits<float>::infinity()};

/// Keys and values of a sequence, the last of which are made no numbers, in pages full of them before.
class AttentionNotFinite : public ::testing::TestWithParam<AttentionCase> {
 protected:
  AttentionNotFinite()
      : shape_(GetParam().shape),
        type_(GetParam().type),
        tokens_(GetParam().tokens),
        finite_(GetParam().finite_tokens),
        ops_(testing::make_operations(type_, 2)),
        capacity_(pages_for(*ops_, {tokens_}) * ops_->page_tokens()),
        q_(random_tensor(DType::f32, tokens_, shape_.heads * shape_.head_dim, 2, GetParam().seed)),
        k_(random_tensor(DType::f32, capacity_, shape_.kv_heads * shape_.head_dim, 2, GetParam().seed + 1)),
        v_(random_tensor(DType::f32, capacity_, shape_.kv_heads * shape_.head_dim, 2, GetParam().seed + 2)) {}

  /// Attention of all tokens over pages that held `before` in every slot; keys and values from `finite_` on are `late`.
  Tensor attend(float before, float late) {
    Paged paged(*ops_, shape_, pages_for(*ops_, {capacity_}));
    const auto pages = paged.take(capacity_);
    const auto write = [&](const Tensor& k, const Tensor& v, std::int64_t rows) {
      std::vector<KvWrite> writes;
      paged.add_writes(writes, pages, 0, rows, 0);
      ops_->write_kv(k.view(), v.view(), shape_, writes, paged.store());
    };
    Tensor former(DType::f32, capacity_, k_.columns(), "test");
    for (float& x : former.span<float>()) x = before;
    write(former, former, capacity_);
    Tensor k = k_.clone();
    Tensor v = v_.clone();
    for (std::int64_t t = finite_; t < tokens_; ++t) {
      std::fill_n(k.row<float>(t), k.columns(), late);
      std::fill_n(v.row<float>(t), v.columns(), late);
    }
    write(k, v, tokens_);
    Tensor out(type_, tokens_, q_.columns(), "test");
    const AttentionRows all{0, tokens_, 0, pages.data()};
    ops_->attention(q_.view(), paged.store(), shape_, std::span(&all, 1), out.view(), View{});
    return out;
  }

  HeadShape shape_;
  DType type_;
  std::int64_t tokens_, finite_;
  std::unique_ptr<testing::Operations> ops_;
  std::int64_t capacity_;  // slots of the pages
  Tensor q_, k_, v_;
};
INSTANTIATE_TEST_SUITE_P(Cases, AttentionNotFinite, ::testing::ValuesIn(testing::attention_cases()));

TEST_P(AttentionNotFinite, WhatAPageHeldBeforeIsNotSeen) {
  const Tensor clean = attend(0, 1);
  for (const float before : kNotFinite)
    EXPECT_TRUE(same_bits(clean.view(), attend(before, 1).view())) << before;
}

TEST_P(AttentionNotFinite, LaterRowsAreNotSeen) {
  const Tensor clean = attend(0, 1);
  for (const float late : kNotFinite)
    EXPECT_TRUE(same_bits(clean.view().row_range(0, finite_), attend(0, late).view().row_range(0, finite_)))
        << late;
}

TEST_P(AttentionNotFinite, WhatIsSeenStaysNoNumber) {
  for (const float late : kNotFinite) {
    const Tensor out = attend(0, late);
    for (std::int64_t t = finite_; t < tokens_; ++t) {
      for (std::int64_t c = 0; c < out.columns(); ++c)
        ASSERT_FALSE(std::isfinite(testing::element_of(out.view(), t, c))) << late << " row " << t;
    }
  }
}

TEST_P(AttentionNotFinite, AQueryThatIsNoNumberGivesNone) {
  const std::int64_t bad = 20;
  for (const float value : kNotFinite) {
    Tensor q = q_.clone();
    std::fill_n(q.row<float>(bad), q.columns(), value);
    std::swap(q, q_);
    const Tensor out = attend(0, 1);
    std::swap(q, q_);
    const Tensor clean = attend(0, 1);
    for (std::int64_t c = 0; c < out.columns(); ++c)
      ASSERT_FALSE(std::isfinite(testing::element_of(out.view(), bad, c))) << value;
    EXPECT_TRUE(same_bits(clean.view().row_range(0, bad), out.view().row_range(0, bad)));
    EXPECT_TRUE(same_bits(clean.view().row_range(bad + 1, tokens_ - bad - 1),
                          out.view().row_range(bad + 1, tokens_ - bad - 1)));
  }
}

// Memory for the scores of 2^45 keys: no address space is that large. Other backends need no such memory.
TEST(AttentionMemory, AnAllocationThatFailsIsAnErrorWithAnyNumberOfThreads) {
  if (!testing::cpu_is_tested()) GTEST_SKIP() << "a test of the CPU's working memory";
  const HeadShape shape{2, 2, 16};
  const Tensor q = random_tensor(DType::f32, 2, 32, 1, 1);
  for (const int threads : {1, 2}) {
    const auto ops = testing::make_operations(DType::f32, threads);
    Paged paged(*ops, shape, 1);
    const auto pages = paged.take(1);
    Tensor out(DType::f32, 2, 32, "test");
    const AttentionRows endless{0, 2, std::int64_t{1} << 45, pages.data()};
    EXPECT_THROW(ops->attention(q.view(), paged.store(), shape, std::span(&endless, 1), out.view(), View{}),
                 Error)
        << threads;
    // Nothing of it stays: the next call works.
    const AttentionRows rows{0, 2, 0, pages.data()};
    ops->attention(q.view(), paged.store(), shape, std::span(&rows, 1), out.view(), View{});
    EXPECT_EQ(out.row<float>(1)[31], 0);
  }
}

TEST(AttentionPages, ACopiedPageHoldsTheSame) {
  const HeadShape shape{2, 1, 20};
  const auto ops = testing::make_operations(DType::f32, 1);
  Paged paged(*ops, shape, 3);
  const Tensor k = random_tensor(DType::f32, 5, 20, 1, 1);
  const Tensor v = random_tensor(DType::f32, 5, 20, 1, 2);
  const Tensor q = random_tensor(DType::f32, 1, 40, 1, 3);
  std::vector<KvWrite> writes;
  paged.add_writes(writes, {2}, 0, 5, 0);
  ops->write_kv(k.view(), v.view(), shape, writes, paged.store());
  ops->copy_page(paged.store(), 2, 0);
  Tensor original(DType::f32, 1, 40, "test");
  Tensor copied(DType::f32, 1, 40, "test");
  const std::int32_t from = 2;
  const std::int32_t to = 0;
  const AttentionRows at_original{0, 1, 4, &from};
  const AttentionRows at_copy{0, 1, 4, &to};
  ops->attention(q.view(), paged.store(), shape, std::span(&at_original, 1), original.view(), View{});
  ops->attention(q.view(), paged.store(), shape, std::span(&at_copy, 1), copied.view(), View{});
  EXPECT_TRUE(same_bits(original.view(), copied.view()));
  EXPECT_NE(original.row<float>(0)[0], 0);
}

}  // namespace
}  // namespace biqa
