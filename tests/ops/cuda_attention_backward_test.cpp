// SPDX-License-Identifier: Apache-2.0
// The backward kernels of attention, from the sources that nvcc compiles, in the emulator: what the backends' common cases do
// not cover.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "cuda_emulation/emulator.h"
#include "ops/cuda/attention.h"
#include "support/compare.h"
#include "support/cuda_arrays.h"
#include "support/cuda_runs.h"
#include "support/oracle.h"

namespace biqa {
namespace {

using oracle::matrix_of;
using oracle::Real;
using testing::DeviceArray;
using testing::DeviceOutput;
using testing::ExpectedMatrix;
using testing::on_device;
using testing::random_tensor;
using testing::relative_bound;
using testing::roundoff;
using testing::same_bits;

constexpr double kUnit = 0x1.0p-24;

struct Case {
  HeadShape shape;
  DType kv, out;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.shape.heads << "/" << c.shape.kv_heads << " heads of " << c.shape.head_dim << " "
             << name_of(c.kv) << ", out " << name_of(c.out);
}

/// A prompt, of which the last `queries` rows have queries, and the completions behind it.
struct Group {
  std::int64_t prompt, queries;
  std::vector<std::int64_t> members;
};

/// The tables of groups whose key and query rows lie one behind the other, with unused rows before each group.
struct Tables {
  explicit Tables(const std::vector<Group>& groups) {
    for (const Group& group : groups) add(group);
  }
  void add(const Group& group) {
    const int prompt = static_cast<int>(group.prompt);
    const int without = prompt - static_cast<int>(group.queries);
    const int first_key = keys += 1;
    const int first_query = queries += 2;
    for (int i = without; i < prompt; ++i) query_keys.push_back({queries++, first_key, i + 1, 0, 0});
    keys += prompt;
    const std::size_t range_begin = ranges.size();
    std::vector<cuda::KeyQueries> member_keys;
    ranges.reserve(range_begin + group.members.size());
    for (const std::int64_t rows : group.members) {
      const int count = static_cast<int>(rows);
      ranges.push_back({queries, count});
      for (int i = 0; i < count; ++i) {
        query_keys.push_back({queries + i, first_key, prompt, keys, i + 1});
        member_keys.push_back({keys + i, {queries + i, count - i}, 0, 0});
      }
      queries += count;
      keys += count;
    }
    for (int i = 0; i < prompt; ++i) {
      const int seen = std::max(0, i - without);
      key_queries.push_back({first_key + i,
                             {first_query + seen, static_cast<int>(group.queries) - seen},
                             static_cast<int>(range_begin),
                             static_cast<int>(ranges.size())});
    }
    key_queries.insert(key_queries.end(), member_keys.begin(), member_keys.end());
  }
  /// The keys of query_keys[i].
  std::vector<std::int64_t> visible(std::size_t i) const {
    const cuda::QueryKeys& query = query_keys[i];
    std::vector<std::int64_t> rows(static_cast<std::size_t>(query.prompt_keys + query.own_keys));
    const auto own = rows.begin() + query.prompt_keys;
    std::iota(rows.begin(), own, query.prompt_first);
    std::iota(own, rows.end(), query.own_first);
    return rows;
  }
  int keys = 0, queries = 0;  // rows so far
  std::vector<cuda::QueryKeys> query_keys;
  std::vector<cuda::KeyQueries> key_queries;
  std::vector<cuda::QueryRange> ranges;
};

struct Inputs {
  Tensor q, k, v, out, lse, d_out;
};
struct Gradients {
  Tensor d_q, d_k, d_v;
};

/// Random rows, and out and lse as a forward would leave them. Rows that no table names are no numbers.
Inputs inputs_for(const Case& c, const Tables& tables) {
  const HeadShape& shape = c.shape;
  const std::int64_t dim = shape.head_dim;
  const auto rows = [&](int count, std::int64_t heads, std::uint64_t seed) {
    return random_tensor(DType::f32, count, heads * dim, 2, seed);
  };
  Inputs in{rows(tables.queries, shape.heads, 1),
            rows(tables.keys, shape.kv_heads, 2),
            rows(tables.keys, shape.kv_heads, 3),
            Tensor(c.out, tables.queries, shape.heads * dim, "test"),
            Tensor(DType::f32, tables.queries, shape.heads, "test"),
            rows(tables.queries, shape.heads, 4)};
  std::fill_n(static_cast<unsigned char*>(in.out.view().data()), in.out.bytes(),
              static_cast<unsigned char>(0xff));
  std::fill_n(in.lse.row<float>(0), in.lse.size(), std::numeric_limits<float>::quiet_NaN());
  const Real q = matrix_of(in.q.view());
  const Real k = oracle::rounded(matrix_of(in.k.view()), c.kv);
  const Real v = oracle::rounded(matrix_of(in.v.view()), c.kv);
  for (std::size_t i = 0; i < tables.query_keys.size(); ++i) {
    const std::int64_t t = tables.query_keys[i].query_row;
    const auto keys = tables.visible(i);
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      const std::int64_t column = h / (shape.heads / shape.kv_heads) * dim;
      double log_sum = 0;
      const auto p = oracle::probabilities(q, k, t, h * dim, column, dim, keys, &log_sum);
      in.lse.row<float>(t)[h] = static_cast<float>(log_sum);
      for (std::int64_t d = 0; d < dim; ++d) {
        double sum = 0;
        for (std::size_t j = 0; j < keys.size(); ++j) sum += p[j] * v(keys[j], column + d);
        if (c.out == DType::bf16)
          in.out.row<Bf16>(t)[h * dim + d] = to_bf16(static_cast<float>(sum));
        else
          in.out.row<float>(t)[h * dim + d] = static_cast<float>(sum);
      }
    }
  }
  return in;
}

Gradients backward(const Case& c, const Inputs& in, const Tables& tables) {
  const cuda::Stream stream;
  const cuda::DeviceTensor q = on_device(in.q.view(), stream);
  const cuda::DeviceTensor k = on_device(in.k.view(), stream);
  const cuda::DeviceTensor v = on_device(in.v.view(), stream);
  const cuda::DeviceTensor out = on_device(in.out.view(), stream);
  const cuda::DeviceTensor lse = on_device(in.lse.view(), stream);
  const cuda::DeviceTensor d_out = on_device(in.d_out.view(), stream);
  const DeviceArray<cuda::QueryKeys> queries(tables.query_keys, stream);
  const DeviceArray<cuda::KeyQueries> keys(tables.key_queries, stream);
  const DeviceArray<cuda::QueryRange> ranges(tables.ranges, stream);
  DeviceOutput d_q(DType::f32, in.q.rows(), in.q.columns(), stream);
  DeviceOutput d_k(DType::f32, in.k.rows(), in.k.columns(), stream);
  DeviceOutput d_v(DType::f32, in.v.rows(), in.v.columns(), stream);
  cuda::attention_backward(q.view(), k.view(), v.view(), out.view(), lse.view(), d_out.view(), c.shape, c.kv,
                           {queries.span(), keys.span(), ranges.span()}, d_q.view(), d_k.view(), d_v.view(),
                           stream);
  return {d_q.on_host(), d_k.on_host(), d_v.on_host()};
}

bool same(const Gradients& a, const Gradients& b) {
  return same_bits(a.d_q.view(), b.d_q.view()) && same_bits(a.d_k.view(), b.d_k.view()) &&
         same_bits(a.d_v.view(), b.d_v.view());
}

struct ExpectedGradients {
  ExpectedMatrix d_q, d_k, d_v;
};
/// With p = exp(q·k/√D − lse) and s = p · (d_out·v − d_out·out)/√D: d_q = Σ s k, d_k = Σ s q, d_v = Σ p d_out. A score is off by
/// its dot product and lse, which is a relative error of p. In s, the bound of the sum is that of Σ |d_out| (|v| + |out|), with
/// out rounded to its type. A sum over keys or queries adds its own.
ExpectedGradients expected_gradients(const Case& c, const Inputs& in, const Tables& tables) {
  const HeadShape& shape = c.shape;
  const std::int64_t dim = shape.head_dim;
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  const Real q = matrix_of(in.q.view());
  const Real k = oracle::rounded(matrix_of(in.k.view()), c.kv);
  const Real v = oracle::rounded(matrix_of(in.v.view()), c.kv);
  const Real d_out = matrix_of(in.d_out.view());
  Real d_q(q.rows, q.columns), d_k(k.rows, k.columns), d_v(v.rows, v.columns);
  Real q_bound = d_q, k_bound = d_k, v_bound = d_v;
  for (std::size_t i = 0; i < tables.query_keys.size(); ++i) {
    const std::int64_t t = tables.query_keys[i].query_row;
    const auto keys = tables.visible(i);
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      const std::int64_t column = h / (shape.heads / shape.kv_heads) * dim;
      double log_sum = 0;
      const auto p = oracle::probabilities(q, k, t, h * dim, column, dim, keys, &log_sum);
      std::vector<double> out(static_cast<std::size_t>(dim));
      for (std::size_t j = 0; j < keys.size(); ++j) {
        for (std::int64_t d = 0; d < dim; ++d)
          out[static_cast<std::size_t>(d)] += p[j] * v(keys[j], column + d);
      }
      for (std::size_t j = 0; j < keys.size(); ++j) {
        double difference = 0;
        double magnitude = 0;
        double rounding = 0;
        double size = std::abs(log_sum);
        for (std::int64_t d = 0; d < dim; ++d) {
          const double g = d_out(t, h * dim + d);
          const double o = out[static_cast<std::size_t>(d)];
          difference += g * (v(keys[j], column + d) - o);
          magnitude += std::abs(g) * (std::abs(v(keys[j], column + d)) + std::abs(o));
          rounding += std::abs(g * o) * roundoff(c.out);
          size += scale * std::abs(q(t, h * dim + d) * k(keys[j], column + d));
        }
        const double sums = relative_bound(dim) + 8 * kUnit;
        const double weight_error =
            sums * size + relative_bound(static_cast<std::int64_t>(tables.query_keys.size()));
        const double s = p[j] * difference * scale;
        const double s_error = p[j] * scale * ((sums + weight_error) * magnitude + rounding);
        for (std::int64_t d = 0; d < dim; ++d) {
          const std::int64_t at = column + d;
          d_q(t, h * dim + d) += s * k(keys[j], at);
          q_bound(t, h * dim + d) += s_error * std::abs(k(keys[j], at));
          d_k(keys[j], at) += s * q(t, h * dim + d);
          k_bound(keys[j], at) += s_error * std::abs(q(t, h * dim + d));
          d_v(keys[j], at) += p[j] * d_out(t, h * dim + d);
          v_bound(keys[j], at) += p[j] * (weight_error + 8 * kUnit) * std::abs(d_out(t, h * dim + d));
        }
      }
    }
  }
  ExpectedGradients expected{ExpectedMatrix(q.rows, q.columns), ExpectedMatrix(k.rows, k.columns),
                             ExpectedMatrix(v.rows, v.columns)};
  for (const auto& query : tables.query_keys) {
    for (std::int64_t at = 0; at < q.columns; ++at)
      expected.d_q.set(query.query_row, at, d_q(query.query_row, at), q_bound(query.query_row, at));
  }
  for (const auto& key : tables.key_queries) {
    for (std::int64_t at = 0; at < k.columns; ++at) {
      expected.d_k.set(key.key_row, at, d_k(key.key_row, at), k_bound(key.key_row, at));
      expected.d_v.set(key.key_row, at, d_v(key.key_row, at), v_bound(key.key_row, at));
    }
  }
  return expected;
}

/// Around blocks of 64 keys and queries; members of one row; a prompt without queries; one without members; one key of all.
const std::vector<Group> kGroups{{65, 65, {1, 3}},  {64, 1, {2, 1}}, {1, 1, {67}},
                                 {5, 0, {1, 0, 2}}, {3, 2, {}},      {1, 0, {}}};

class CudaAttentionBackward : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Cases, CudaAttentionBackward,
    ::testing::Values(Case{{1, 1, 1}, DType::f32, DType::f32}, Case{{4, 2, 8}, DType::bf16, DType::bf16},
                      Case{{6, 2, 12}, DType::f32, DType::f32}, Case{{7, 1, 24}, DType::bf16, DType::f32},
                      Case{{2, 2, 33}, DType::f32, DType::bf16}, Case{{2, 1, 80}, DType::bf16, DType::bf16},
                      Case{{1, 1, 256}, DType::f32, DType::f32}));

TEST_P(CudaAttentionBackward, AgreesWithTheFormula) {
  const Tables tables(kGroups);
  const Inputs in = inputs_for(GetParam(), tables);
  const Gradients result = backward(GetParam(), in, tables);
  const ExpectedGradients expected = expected_gradients(GetParam(), in, tables);
  EXPECT_TRUE(expected.d_q.agrees_with(result.d_q.view()));
  EXPECT_TRUE(expected.d_k.agrees_with(result.d_k.view()));
  EXPECT_TRUE(expected.d_v.agrees_with(result.d_v.view()));
}

// The output's elements were the bytes of the guards before.
TEST_P(CudaAttentionBackward, WritesTheRowsOfTheTablesAlone) {
  const Tables tables(kGroups);
  const Gradients result = backward(GetParam(), inputs_for(GetParam(), tables), tables);
  const Gradients untouched = backward(GetParam(), inputs_for(GetParam(), tables), Tables({}));
  std::vector<bool> query(static_cast<std::size_t>(tables.queries));
  std::vector<bool> key(static_cast<std::size_t>(tables.keys));
  for (const auto& entry : tables.query_keys) query[static_cast<std::size_t>(entry.query_row)] = true;
  for (const auto& entry : tables.key_queries) key[static_cast<std::size_t>(entry.key_row)] = true;
  const auto check = [](const Tensor& written, const Tensor& before, const std::vector<bool>& rows) {
    for (std::int64_t r = 0; r < written.rows(); ++r) {
      EXPECT_EQ(!same_bits(written.view().row_range(r, 1), before.view().row_range(r, 1)),
                rows[static_cast<std::size_t>(r)])
          << r;
    }
  };
  check(result.d_q, untouched.d_q, query);
  check(result.d_k, untouched.d_k, key);
  check(result.d_v, untouched.d_v, key);
}

TEST_P(CudaAttentionBackward, SameBitsInEveryOrderOfThreads) {
  const Tables tables({{33, 33, {1, 40}}});
  const Inputs in = inputs_for(GetParam(), tables);
  const Gradients first = backward(GetParam(), in, tables);
  for (const emulation::Order order : {emulation::Order::backward, emulation::Order::shuffled}) {
    emulation::set_order(order);
    EXPECT_TRUE(same(first, backward(GetParam(), in, tables)));
  }
  emulation::set_order(emulation::Order::forward);
}

// The rows of a group stand elsewhere, and other groups stand beside them.
TEST_P(CudaAttentionBackward, AGroupDoesNotDependOnTheOthers) {
  const Tables alone({{20, 20, {3, 50}}});
  const Tables others({{7, 3, {2}}, {20, 20, {3, 50}}, {9, 9, {}}});
  const Inputs in = inputs_for(GetParam(), alone);
  Inputs more = inputs_for(GetParam(), others);
  const std::int64_t first_query =
      2 + 3 + 2 + 2 - 2;  // behind the first group and the unused rows, less those of `alone`
  const std::int64_t first_key = 1 + 7 + 2;
  const auto put = [](const Tensor& from, Tensor& to, std::int64_t first) {
    for (std::int64_t r = 0; r < from.rows(); ++r) {
      const View row = to.view().row_range(first + r, 1);
      std::copy_n(static_cast<const unsigned char*>(from.view().row_range(r, 1).data()),
                  static_cast<std::size_t>(from.columns()) * size_of(from.type()),
                  static_cast<unsigned char*>(row.data()));
    }
  };
  put(in.q, more.q, first_query);
  put(in.out, more.out, first_query);
  put(in.lse, more.lse, first_query);
  put(in.d_out, more.d_out, first_query);
  put(in.k, more.k, first_key);
  put(in.v, more.v, first_key);
  const Gradients a = backward(GetParam(), in, alone);
  const Gradients b = backward(GetParam(), more, others);
  const std::int64_t queries = a.d_q.rows() - 2;
  const std::int64_t keys = a.d_k.rows() - 1;
  EXPECT_TRUE(
      same_bits(a.d_q.view().row_range(2, queries), b.d_q.view().row_range(first_query + 2, queries)));
  EXPECT_TRUE(same_bits(a.d_k.view().row_range(1, keys), b.d_k.view().row_range(first_key + 1, keys)));
  EXPECT_TRUE(same_bits(a.d_v.view().row_range(1, keys), b.d_v.view().row_range(first_key + 1, keys)));
}

bool is_nan(ConstView matrix, std::int64_t row) {
  for (std::int64_t c = 0; c < matrix.columns(); ++c) {
    if (!std::isnan(testing::element_of(matrix, row, c))) return false;
  }
  return true;
}

// A member's rows see its own keys and the prompt's: what is no number spreads as far as that and no farther.
TEST_P(CudaAttentionBackward, ANaNStaysOneAndInItsRows) {
  const Case& c = GetParam();
  const Tables tables({{3, 3, {2, 2}}});  // key rows 1–3, 4–5, 6–7; query rows 2–4, 5–6, 7–8
  const Inputs clean = inputs_for(c, tables);
  const Gradients expected = backward(c, clean, tables);
  const auto spoiled = [&](Tensor Inputs::*which, std::int64_t row) {
    Inputs in{clean.q.clone(),   clean.k.clone(),   clean.v.clone(),
              clean.out.clone(), clean.lse.clone(), clean.d_out.clone()};
    const View values = (in.*which).view().row_range(row, 1);
    std::fill_n(static_cast<unsigned char*>(values.data()),
                static_cast<std::size_t>(values.columns()) * size_of(values.type()),
                static_cast<unsigned char>(0xff));
    return backward(c, in, tables);
  };
  const auto check = [](const Tensor& result, const Tensor& before, std::initializer_list<std::int64_t> bad,
                        const char* what) {
    for (std::int64_t r = 0; r < result.rows(); ++r) {
      if (std::find(bad.begin(), bad.end(), r) != bad.end())
        EXPECT_TRUE(is_nan(result.view(), r)) << what << " " << r;
      else
        EXPECT_TRUE(same_bits(result.view().row_range(r, 1), before.view().row_range(r, 1)))
            << what << " " << r;
    }
  };
  for (Tensor Inputs::*of_query : {&Inputs::q, &Inputs::out, &Inputs::lse, &Inputs::d_out}) {
    const Gradients result = spoiled(of_query, 5);  // the first row of the first member
    check(result.d_q, expected.d_q, {5}, "d_q");
    check(result.d_k, expected.d_k, {1, 2, 3, 4}, "d_k");
    if (of_query != &Inputs::out) check(result.d_v, expected.d_v, {1, 2, 3, 4}, "d_v");
  }
  for (Tensor Inputs::*of_key : {&Inputs::k, &Inputs::v}) {
    const Gradients result = spoiled(of_key, 7);  // seen by the last query alone
    check(result.d_q, expected.d_q, {8}, "d_q");
    check(result.d_k, expected.d_k, {7}, "d_k");
  }
}

TEST(CudaAttentionBackwardDeathTest, RefusesShapesThatDisagree) {
  const Case c{{2, 1, 8}, DType::f32, DType::f32};
  const Tables tables({{3, 3, {}}});
  Inputs in = inputs_for(c, tables);
  in.lse = Tensor(DType::f32, tables.queries, 1, "test");
  EXPECT_DEATH(backward(c, in, tables), "5x1");
}

}  // namespace
}  // namespace biqa
