// SPDX-License-Identifier: Apache-2.0
// The attention kernels, from the sources that nvcc compiles, in the emulator: what the backends' common cases do not cover.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "core/random.h"
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
using testing::element_of;
using testing::ExpectedMatrix;
using testing::on_device;
using testing::random_tensor;
using testing::relative_bound;
using testing::roundoff;
using testing::same_bits;

constexpr double kUnit = 0x1.0p-24;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::array<float, 3> kNotFinite{std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity};

struct Case {
  HeadShape shape;
  DType type;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.shape.heads << "/" << c.shape.kv_heads << " heads of " << c.shape.head_dim << " "
             << name_of(c.type);
}
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const HeadShape& shape :
       {HeadShape{1, 1, 1}, HeadShape{4, 2, 8}, HeadShape{6, 2, 12}, HeadShape{2, 1, 24}, HeadShape{3, 3, 33},
        HeadShape{2, 2, 80}, HeadShape{7, 1, 128}, HeadShape{1, 1, 256}}) {
    for (const DType type : {DType::f32, DType::bf16}) all.push_back({shape, type});
  }
  return all;
}

struct Result {
  Tensor out, lse;
};
/// Row `t` of the queries sees the first `length` keys of a sequence.
struct Query {
  std::size_t sequence;
  std::int32_t length;
};

/// Keys and values of some sequences, in pages that lie scattered and held `before` in every element.
class Sequences {
 public:
  Sequences(const Case& c, std::vector<std::int64_t> lengths, float before = 0)
      : shape_(c.shape), type_(c.type), lengths_(std::move(lengths)) {
    std::int64_t rows = 0;
    std::int64_t page_count = 1;
    for (const std::int64_t length : lengths_) {
      first_row_.push_back(rows);
      rows += length;
      page_count += (length + cuda::kPageTokens - 1) / cuda::kPageTokens;
    }
    k = random_tensor(DType::f32, rows, shape_.kv_heads * shape_.head_dim, 2, 12);
    v = random_tensor(DType::f32, rows, shape_.kv_heads * shape_.head_dim, 2, 13);
    const auto order = random_order(static_cast<std::size_t>(page_count), RandomStream{7});
    for (const std::int64_t length : lengths_) {
      first_page_.push_back(static_cast<std::int32_t>(page_table_.size()));
      for (std::int64_t i = 0; i < length; i += cuda::kPageTokens)
        page_table_.push_back(static_cast<std::int32_t>(order[page_table_.size()]));
    }
    // Between the pages lies what belongs to nobody.
    page_elements_ = cuda::kv_page_elements(shape_) + 5;
    Tensor former(type_, page_count, page_elements_, "test");
    for (std::int64_t i = 0; i < former.size(); ++i) {
      if (type_ == DType::f32)
        former.span<float>()[static_cast<std::size_t>(i)] = before;
      else
        former.span<Bf16>()[static_cast<std::size_t>(i)] = to_bf16(before);
    }
    storage_ = on_device(former.view(), stream);
    stream.synchronise();
  }

  cuda::KvPages pages() const { return {storage_.view().address(), type_, page_elements_}; }
  ConstView storage() const { return storage_.view(); }
  std::int64_t row_of(std::size_t sequence, std::int64_t position) const {
    return first_row_[sequence] + position;
  }
  KvWrite place_of(std::size_t sequence, std::int64_t position) const {
    const auto page = static_cast<std::size_t>(first_page_[sequence] + position / cuda::kPageTokens);
    return {static_cast<std::int32_t>(row_of(sequence, position)), page_table_[page],
            static_cast<std::int32_t>(position % cuda::kPageTokens)};
  }
  void write() {
    std::vector<KvWrite> writes;
    for (std::size_t s = 0; s < lengths_.size(); ++s) {
      for (std::int64_t i = 0; i < lengths_[s]; ++i) writes.push_back(place_of(s, i));
    }
    write(writes);
  }
  void write(const std::vector<KvWrite>& writes) {
    const cuda::DeviceTensor device_k = on_device(k.view(), stream);
    const cuda::DeviceTensor device_v = on_device(v.view(), stream);
    const DeviceArray<KvWrite> table(writes, stream);
    cuda::write_kv(device_k.view(), device_v.view(), shape_, table.span(), pages(), stream);
    stream.synchronise();
  }
  Result attend(ConstView q, const std::vector<Query>& queries, DType output, bool with_lse = true) const {
    std::vector<cuda::QueryRow> rows;
    rows.reserve(queries.size());
    for (const Query& query : queries) rows.push_back({first_page_[query.sequence], query.length});
    const DeviceArray<cuda::QueryRow> device_rows(rows, stream);
    const DeviceArray<std::int32_t> device_table(page_table_, stream);
    const cuda::DeviceTensor device_q = on_device(q, stream);
    DeviceOutput out(output, q.rows(), q.columns(), stream);
    DeviceOutput lse(DType::f32, q.rows(), shape_.heads, stream);
    cuda::attention(device_q.view(), pages(), shape_, device_rows.span(), device_table.span(), out.view(),
                    with_lse ? lse.view() : View{}, stream);
    return {out.on_host(), lse.on_host()};
  }
  oracle::Visible visible(const std::vector<Query>& queries) const {
    oracle::Visible all;
    for (const Query& query : queries) {
      auto& keys = all.emplace_back(static_cast<std::size_t>(query.length));
      std::iota(keys.begin(), keys.end(), first_row_[query.sequence]);
    }
    return all;
  }
  Tensor queries(std::size_t count) const {
    return random_tensor(DType::f32, static_cast<std::int64_t>(count), shape_.heads * shape_.head_dim, 2, 11);
  }

  Tensor k, v;  // [rows, kv_heads·D]: the sequences one behind the other
  cuda::Stream stream;

 private:
  HeadShape shape_;
  DType type_;
  std::vector<std::int64_t> lengths_, first_row_;
  std::vector<std::int32_t> first_page_, page_table_;
  std::int64_t page_elements_ = 0;
  cuda::DeviceTensor storage_;
};

struct ExpectedResult {
  ExpectedMatrix out, lse;
};
/// The formula with its bounds. The score of a key is off by `score_error`: its dot product, the scale, the difference to the
/// maximum, and what the maxima of the blocks before differed. That is a relative error of its weight. The sums of weights and
/// of weighted values add their own, each block of keys a product with a ratio of two weights, and at the end stand an
/// exponential, a division and a logarithm.
ExpectedResult expected_attention(const Real& q, const Real& k, const Real& v, const HeadShape& shape,
                                  const oracle::Visible& visible, DType output) {
  const Real out = oracle::attention(q, k, v, shape.heads, shape.kv_heads, visible);
  ExpectedResult expected{ExpectedMatrix(q.rows, q.columns), ExpectedMatrix(q.rows, shape.heads)};
  const std::int64_t dim = shape.head_dim;
  for (std::int64_t t = 0; t < q.rows; ++t) {
    const auto& keys = visible[static_cast<std::size_t>(t)];
    const auto key_count = static_cast<std::int64_t>(keys.size());
    const std::int64_t blocks = (key_count + cuda::kPageTokens - 1) / cuda::kPageTokens;
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      const std::int64_t k_column = h / (shape.heads / shape.kv_heads) * dim;
      double log_sum = 0;
      const auto p = oracle::probabilities(q, k, t, h * dim, k_column, dim, keys, &log_sum);
      double largest = 0;
      for (const std::int64_t j : keys) {
        double size = 0;
        for (std::int64_t d = 0; d < dim; ++d) size += std::abs(q(t, h * dim + d) * k(j, k_column + d));
        largest = std::max(largest, size);
      }
      const double score_error =
          (relative_bound(dim) + 5 * kUnit) * largest / std::sqrt(static_cast<double>(dim));
      const double sum_error = relative_bound(key_count) + static_cast<double>(4 * blocks + 4) * kUnit;
      expected.lse.set(t, h, log_sum, score_error + sum_error + 2 * kUnit * std::abs(log_sum));
      for (std::int64_t d = 0; d < dim; ++d) {
        double magnitude = 0;
        for (std::size_t j = 0; j < keys.size(); ++j) magnitude += p[j] * std::abs(v(keys[j], k_column + d));
        const double value = out(t, h * dim + d);
        expected.out.set(t, h * dim + d, value,
                         2 * (score_error + sum_error) * magnitude + roundoff(output) * std::abs(value));
      }
    }
  }
  return expected;
}

/// Runs f with the threads in each order; the results must have the same bits.
Tensor in_every_order(const std::function<Tensor()>& f) {
  Tensor first = f();
  for (const emulation::Order order : {emulation::Order::backward, emulation::Order::shuffled}) {
    emulation::set_order(order);
    EXPECT_TRUE(same_bits(first.view(), f().view()));
  }
  emulation::set_order(emulation::Order::forward);
  return first;
}

class CudaAttention : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, CudaAttention, ::testing::ValuesIn(cases()));

// Lengths around one and two pages; rows of a sequence need not stand together, nor in order.
TEST_P(CudaAttention, AgreesWithTheFormula) {
  const auto& [shape, type] = GetParam();
  Sequences sequences(GetParam(), {1, 63, 64, 65, 129});
  sequences.write();
  const std::vector<Query> queries{{4, 129}, {0, 1},  {1, 63}, {2, 64},  {2, 63},
                                   {3, 1},   {3, 64}, {3, 65}, {4, 128}, {4, 2}};
  const Tensor q = sequences.queries(queries.size());
  for (const DType output : {DType::f32, DType::bf16}) {
    const Result result = sequences.attend(q.view(), queries, output);
    const ExpectedResult expected = expected_attention(
        matrix_of(q.view()), oracle::rounded(matrix_of(sequences.k.view()), type),
        oracle::rounded(matrix_of(sequences.v.view()), type), shape, sequences.visible(queries), output);
    EXPECT_TRUE(expected.out.agrees_with(result.out.view()));
    EXPECT_TRUE(expected.lse.agrees_with(result.lse.view()));
    EXPECT_TRUE(same_bits(result.out.view(), sequences.attend(q.view(), queries, output, false).out.view()));
  }
}

// Decode asks for one row at a time, each written just before; the learner for all rows of a sequence.
TEST_P(CudaAttention, DecodeAndALongBatchGiveTheSameBits) {
  constexpr std::int64_t kLength = 70;
  const DType type = GetParam().type;
  Sequences together(GetParam(), {5, kLength});
  together.write();
  std::vector<Query> queries(kLength);
  for (std::int32_t t = 0; t < kLength; ++t) queries[static_cast<std::size_t>(t)] = {1, t + 1};
  const Tensor q = together.queries(queries.size());
  const Result batch = together.attend(q.view(), queries, type);

  Sequences alone(GetParam(), {5, kLength});
  for (std::int64_t t = 0; t < kLength; ++t) {
    alone.write({alone.place_of(1, t)});
    if (t > 3 && t < 61) continue;
    const Result row = alone.attend(q.view().row_range(t, 1), {queries[static_cast<std::size_t>(t)]}, type);
    EXPECT_TRUE(same_bits(row.out.view(), batch.out.view().row_range(t, 1))) << t;
    EXPECT_TRUE(same_bits(row.lse.view(), batch.lse.view().row_range(t, 1))) << t;
  }
}

TEST_P(CudaAttention, SameBitsInEveryOrderOfThreads) {
  in_every_order([&] {
    Sequences sequences(GetParam(), {3, 66});
    sequences.write();
    const std::vector<Query> queries{{1, 66}, {0, 3}, {1, 64}};
    return sequences.attend(sequences.queries(3).view(), queries, GetParam().type).out;
  });
}

// Later keys, and what a page held before, may be anything.
TEST_P(CudaAttention, KeysBeyondTheLengthDoNotMatter) {
  const std::vector<Query> queries{{0, 1}, {0, 63}, {0, 64}, {0, 65}, {0, 66}};
  const auto attend = [&](float before, float late) {
    Sequences sequences(GetParam(), {70}, before);
    for (std::int64_t t = 66; t < 70; ++t) {
      std::fill_n(sequences.k.row<float>(t), sequences.k.columns(), late);
      std::fill_n(sequences.v.row<float>(t), sequences.v.columns(), late);
    }
    sequences.write();
    return sequences.attend(sequences.queries(queries.size()).view(), queries, DType::f32);
  };
  const Result clean = attend(0, 0);
  for (const float value : kNotFinite) {
    const Result result = attend(value, value);
    EXPECT_TRUE(same_bits(clean.out.view(), result.out.view())) << value;
    EXPECT_TRUE(same_bits(clean.lse.view(), result.lse.view())) << value;
  }
}

/// Whether every element of a row is (or is not) a number.
bool all_of_row(ConstView matrix, std::int64_t row, bool finite) {
  for (std::int64_t c = 0; c < matrix.columns(); ++c) {
    if (std::isfinite(element_of(matrix, row, c)) != finite) return false;
  }
  return true;
}

TEST_P(CudaAttention, ANaNThatIsSeenStaysOne) {
  const HeadShape& shape = GetParam().shape;
  const std::vector<Query> queries{{0, 1}, {0, 63}, {0, 64}, {0, 65}, {0, 130}};
  const Tensor q = random_tensor(DType::f32, 5, shape.heads * shape.head_dim, 2, 11);
  Sequences clean(GetParam(), {130});
  clean.write();
  const Result expected = clean.attend(q.view(), queries, DType::f32);
  for (const std::int64_t bad : {0, 31, 63, 64, 129}) {
    Sequences keys(GetParam(), {130});
    for (std::int64_t h = 0; h < shape.kv_heads; ++h)
      keys.k.row<float>(bad)[(h + 1) * shape.head_dim - 1] = kNotFinite[0];
    keys.write();
    const Result result = keys.attend(q.view(), queries, DType::f32);
    Sequences values(GetParam(), {130});
    values.v.row<float>(bad)[shape.head_dim - 1] = kNotFinite[0];
    values.write();
    const Result other = values.attend(q.view(), queries, DType::f32);
    for (std::size_t t = 0; t < queries.size(); ++t) {
      const auto row = static_cast<std::int64_t>(t);
      const bool seen = bad < queries[t].length;
      EXPECT_TRUE(all_of_row(result.out.view(), row, !seen)) << "key " << bad << " row " << t;
      EXPECT_TRUE(all_of_row(result.lse.view(), row, !seen)) << "key " << bad << " row " << t;
      // Of a value, only its own dimension.
      for (std::int64_t c = 0; c < q.columns(); ++c) {
        const bool touched = seen && c % shape.head_dim == shape.head_dim - 1 &&
                             c / shape.head_dim < shape.heads / shape.kv_heads;
        const float value = other.out.row<float>(row)[c];
        EXPECT_EQ(std::isnan(value), touched) << "value " << bad << " row " << t << " column " << c;
        if (!touched) {
          EXPECT_EQ(value, expected.out.row<float>(row)[c]);
        }
      }
    }
  }
}

TEST_P(CudaAttention, AQueryThatIsNoNumberGivesNone) {
  const std::vector<Query> queries{{0, 66}, {0, 66}, {0, 66}};
  Sequences sequences(GetParam(), {66});
  sequences.write();
  Tensor q = sequences.queries(3);
  const Result clean = sequences.attend(q.view(), queries, DType::f32);
  for (const float value : kNotFinite) {
    std::fill_n(q.row<float>(1), q.columns(), value);
    const Result result = sequences.attend(q.view(), queries, DType::f32);
    EXPECT_TRUE(all_of_row(result.out.view(), 1, false)) << value;
    for (const std::int64_t row : {0, 2})
      EXPECT_TRUE(same_bits(clean.out.view().row_range(row, 1), result.out.view().row_range(row, 1)))
          << value;
  }
}

/// One head with one dimension: the scores are the keys.
Tensor attend_to(const std::vector<float>& keys, DType type) {
  const auto length = static_cast<std::int64_t>(keys.size());
  Sequences sequences({{1, 1, 1}, type}, {length});
  std::copy(keys.begin(), keys.end(), sequences.k.span<float>().begin());
  for (std::int64_t i = 0; i < length; ++i)
    sequences.v.span<float>()[static_cast<std::size_t>(i)] = static_cast<float>(i);
  sequences.write();
  Tensor q(DType::f32, 1, 1, "test");
  q.row<float>(0)[0] = 1;
  return sequences.attend(q.view(), {{0, static_cast<std::int32_t>(length)}}, DType::f32).out;
}

// A weight of exactly nothing is no obstacle, wherever the block of its key stands.
TEST(CudaAttentionScores, KeysOfNoWeight) {
  for (const std::size_t only :
       {std::size_t{0}, std::size_t{63}, std::size_t{64}, std::size_t{100}, std::size_t{199}}) {
    for (const float other : {-kInfinity, -1e30F}) {
      std::vector<float> keys(200, other);
      keys[only] = -3;
      EXPECT_EQ(attend_to(keys, DType::f32).row<float>(0)[0], static_cast<float>(only)) << other;
    }
  }
  EXPECT_TRUE(std::isnan(attend_to(std::vector<float>(70, -kInfinity), DType::f32).row<float>(0)[0]));
  EXPECT_TRUE(std::isnan(attend_to(std::vector<float>(70, kInfinity), DType::f32).row<float>(0)[0]));
}

// Each block's maximum exceeds the one before, so that every block fades what was summed so far; and the other way round.
TEST(CudaAttentionScores, MaximaThatRiseAndFall) {
  for (const float step : {0.02F, -0.02F, 1.0F, -1.0F}) {
    std::vector<float> keys(200);
    double sum = 0;
    double weighted = 0;
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = step * static_cast<float>(i);
    const double highest = *std::max_element(keys.begin(), keys.end());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const double weight = std::exp(static_cast<double>(keys[i]) - highest);
      sum += weight;
      weighted += weight * static_cast<double>(i);
    }
    const double bound = 2 * (5 * kUnit * 200 + relative_bound(200) + 20 * kUnit);
    EXPECT_NEAR(attend_to(keys, DType::f32).row<float>(0)[0], weighted / sum, bound * weighted / sum) << step;
  }
}

TEST(CudaAttentionPages, AWriteChangesItsSlotAlone) {
  const HeadShape shape{2, 2, 12};
  for (const DType type : {DType::f32, DType::bf16}) {
    Sequences sequences({shape, type}, {70, 3}, 7);
    const KvWrite place = sequences.place_of(0, 65);
    sequences.write({place});
    Tensor pages(type, sequences.storage().rows(), sequences.storage().columns(), "test");
    cuda::copy_to_host(sequences.storage(), pages.view(), sequences.stream);
    sequences.stream.synchronise();
    std::int64_t changed = 0;
    for (std::int64_t p = 0; p < pages.rows(); ++p) {
      for (std::int64_t c = 0; c < pages.columns(); ++c) changed += element_of(pages.view(), p, c) != 7;
    }
    EXPECT_EQ(changed, 2 * shape.kv_heads * shape.head_dim);
    const Real k = oracle::rounded(matrix_of(sequences.k.view()), type);
    const Real v = oracle::rounded(matrix_of(sequences.v.view()), type);
    for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
      for (std::int64_t d = 0; d < shape.head_dim; ++d) {
        const std::int64_t at = h * 2 * 64 * shape.head_dim + place.slot * shape.head_dim + d;
        EXPECT_EQ(element_of(pages.view(), place.page, at), k(place.row, h * shape.head_dim + d));
        EXPECT_EQ(element_of(pages.view(), place.page, at + 64 * shape.head_dim),
                  v(place.row, h * shape.head_dim + d));
      }
    }
  }
}

TEST(CudaAttentionPages, ACopiedPageHoldsTheSame) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Sequences sequences({{1, 1, 80}, type}, {64, 64, 64});
    sequences.write();
    const auto pages_now = [&] {
      Tensor pages(type, sequences.storage().rows(), sequences.storage().columns(), "test");
      cuda::copy_to_host(sequences.storage(), pages.view(), sequences.stream);
      sequences.stream.synchronise();
      return pages;
    };
    const Tensor before = pages_now();
    const std::int32_t from = sequences.place_of(1, 0).page;
    const std::int32_t to = sequences.place_of(2, 0).page;
    cuda::copy_page(sequences.pages(), from, to, sequences.stream);
    const Tensor after = pages_now();
    for (std::int64_t p = 0; p < before.rows(); ++p)
      EXPECT_TRUE(same_bits(after.view().row_range(p, 1), before.view().row_range(p == to ? from : p, 1)))
          << p;
  }
}

TEST(CudaAttentionRows, NoRowsIsNoWork) {
  Sequences sequences({{2, 1, 8}, DType::f32}, {3});
  sequences.write({});
  const Result result = sequences.attend(Tensor(DType::f32, 0, 16, "test").view(), {}, DType::f32);
  EXPECT_EQ(result.out.rows(), 0);
}

TEST(CudaAttentionDeathTest, RefusesHeadsThatAreTooWide) {
  Sequences sequences({{1, 1, 257}, DType::f32}, {3});
  EXPECT_DEATH(sequences.write(), "257");
  EXPECT_DEATH(sequences.attend(sequences.queries(1).view(), {{0, 3}}, DType::f32), "257");
}

}  // namespace
}  // namespace biqa
