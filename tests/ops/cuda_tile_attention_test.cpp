// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores: in the emulator, or on a device in builds with CUDA.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "core/random.h"
#include "ops/cuda/attention_tiles.h"
#include "support/compare.h"
#include "support/cuda/aligned_output.h"
#include "support/cuda/device_test.h"
#include "support/op_cases.h"
#include "support/oracle.h"

namespace biqa {
namespace {

using cuda::ForwardTiles;
using cuda::KeyRun;
using cuda::QueryRows;
using cuda::QueryTile;
using cuda::SharedQueryRows;
using oracle::matrix_of;
using oracle::Real;
using testing::AlignedOutput;
using testing::DeviceTable;
using testing::element_of;
using testing::ExpectedMatrix;
using testing::random_tensor;
using testing::relative_bound;
using testing::roundoff;
using testing::same_bits;

constexpr double kUnit = 0x1.0p-24;
constexpr double kExp2Error = 0x1.0p-22;  // of ex2.approx, relative
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::array<float, 3> kNotFinite{std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity};
constexpr std::int32_t kPage = cuda::kPageTokens;

struct Result {
  Tensor out, lse;
};

/// The queries as the kernel sees them: times the factor, rounded, and the factor taken out again.
Real rounded_queries(ConstView q, std::int64_t head_dim) {
  const float factor = 1.44269504F / std::sqrt(static_cast<float>(head_dim));
  Real rounded = matrix_of(q);
  for (double& x : rounded.values)
    x = to_float(to_bf16(static_cast<float>(x) * factor)) /
        (std::log2(std::exp(1.0)) / std::sqrt(double(head_dim)));
  return rounded;
}

struct ExpectedResult {
  ExpectedMatrix out, lse;
};
/// The formula for rounded queries, keys and values, with the bounds that docs/numerics.md derives.
ExpectedResult expected_attention(const Real& q, const Real& k, const Real& v, const HeadShape& shape,
                                  const oracle::Visible& visible, DType output) {
  ExpectedResult expected{ExpectedMatrix(q.rows, q.columns), ExpectedMatrix(q.rows, shape.heads)};
  const std::int64_t dim = shape.head_dim;
  for (std::int64_t t = 0; t < q.rows; ++t) {
    const auto& keys = visible[static_cast<std::size_t>(t)];
    const auto key_count = static_cast<std::int64_t>(keys.size());
    const std::int64_t blocks = (key_count + kPage - 1) / kPage;
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
      const double score_error = (relative_bound(dim) + 5 * kUnit) * largest / std::sqrt(double(dim));
      const double sum_error =
          relative_bound(key_count) + static_cast<double>(4 * blocks + 4) * kUnit + 2 * kExp2Error;
      expected.lse.set(t, h, log_sum, score_error + sum_error + 2 * kUnit * std::abs(log_sum));
      for (std::int64_t d = 0; d < dim; ++d) {
        double value = 0;
        double magnitude = 0;
        for (std::size_t j = 0; j < keys.size(); ++j) {
          value += p[j] * v(keys[j], k_column + d);
          magnitude += p[j] * std::abs(v(keys[j], k_column + d));
        }
        expected.out.set(t, h * dim + d, value,
                         (2 * (score_error + sum_error) + roundoff(DType::bf16)) * magnitude +
                             roundoff(output) * std::abs(value));
      }
    }
  }
  return expected;
}

/// Keys and values of some sequences, in pages that lie scattered and held `before` in every element.
class Sequences {
 public:
  Sequences(const HeadShape& shape, std::vector<std::int32_t> lengths, double size = 2, float before = 0)
      : shape_(shape), lengths_(std::move(lengths)), before_(before) {
    std::int64_t rows = 0;
    for (const std::int32_t length : lengths_) {
      first_row_.push_back(rows);
      rows += length;
      pages_ += (length + kPage - 1) / kPage;
    }
    k = random_tensor(DType::f32, rows, shape.kv_heads * shape.head_dim, size, 12);
    v = random_tensor(DType::f32, rows, shape.kv_heads * shape.head_dim, 2, 13);
    const auto order = random_order(static_cast<std::size_t>(pages_), RandomStream{7});
    for (const std::int32_t length : lengths_) {
      first_page_.push_back(static_cast<std::int32_t>(table_.size()));
      for (std::int32_t i = 0; i < length; i += kPage)
        table_.push_back(static_cast<std::int32_t>(order[table_.size()]));
    }
  }

  /// `count` rows of a sequence as query rows from `row` on. The first one is the token at `position`.
  QueryRows rows(std::int32_t row, std::size_t sequence, std::int32_t position, std::int32_t count) const {
    return {row, count, {first_page_[sequence], position + 1, 1}, {}};
  }
  oracle::Visible visible(const std::vector<QueryRows>& all) const {
    oracle::Visible keys;
    for (const QueryRows& rows : all) {
      for (std::int32_t i = 0; i < rows.rows; ++i) {
        const auto at =
            std::find(first_page_.begin(), first_page_.end(), rows.keys.first) - first_page_.begin();
        auto& row = keys.emplace_back(static_cast<std::size_t>(rows.keys.length + i));
        std::iota(row.begin(), row.end(), first_row_[static_cast<std::size_t>(at)]);
      }
    }
    return keys;
  }
  /// The keys of a sequence from its first one on.
  KeyRun run(std::size_t sequence, std::int32_t length) const { return {first_page_[sequence], length, 0}; }
  /// A row that attends to the first `pages` pages of one sequence and then to all of another, as a sequence of its own.
  QueryRows joined(std::int32_t row, std::size_t first, std::int32_t pages, std::size_t then) {
    const auto entry = static_cast<std::int32_t>(table_.size());
    for (std::int32_t i = 0; i < pages; ++i)
      table_.push_back(table_[static_cast<std::size_t>(first_page_[first]) + static_cast<std::size_t>(i)]);
    for (std::int32_t i = 0; i * kPage < lengths_[then]; ++i)
      table_.push_back(table_[static_cast<std::size_t>(first_page_[then]) + static_cast<std::size_t>(i)]);
    return {row, 1, {entry, pages * kPage + lengths_[then], 1}, {}};
  }
  Result attend(ConstView q, const std::vector<QueryTile>& tiles, DType output, bool with_lse = true) {
    return attend(q, ForwardTiles{tiles, {}}, output, with_lse);
  }
  Result attend(ConstView q, const ForwardTiles& tiles, DType output, bool with_lse = true) {
    Tensor pages = copied_to(memory, filled_pages().view(), "test");
    const cuda::KvPages kv{pages.view().address(), DType::bf16, page_elements()};
    const DeviceTable<QueryTile> device_tiles(tiles.tiles, memory);
    const DeviceTable<KeyRun> own(tiles.own, memory);
    const DeviceTable<std::int32_t> device_table(table_, memory);
    const Tensor device_q = copied_to(memory, q, "test");
    AlignedOutput out(output, q.rows(), q.columns(), memory);
    AlignedOutput lse(DType::f32, q.rows(), shape_.heads, memory);
    cuda::tile_attention(device_q.view(), kv, shape_, {device_tiles.span(), own.span()}, device_table.span(),
                         out.view(), with_lse ? lse.view() : View{}, *stream);
    return {out.on_host(), lse.on_host()};
  }
  /// By the plain kernel.
  Result attend_plainly(const Real& queries, const std::vector<QueryRows>& rows, DType output) {
    Tensor q(DType::f32, queries.rows, queries.columns, "test");
    std::copy(queries.values.begin(), queries.values.end(), q.span<float>().begin());
    std::vector<cuda::QueryRow> each;
    for (const QueryRows& run : rows) {
      for (std::int32_t i = 0; i < run.rows; ++i) each.push_back({run.keys.first, run.keys.length + i});
    }
    Tensor pages = copied_to(memory, filled_pages().view(), "test");
    const cuda::KvPages kv{pages.view().address(), DType::bf16, page_elements()};
    const DeviceTable<cuda::QueryRow> device_rows(each, memory);
    const DeviceTable<std::int32_t> device_table(table_, memory);
    const Tensor device_q = copied_to(memory, q.view(), "test");
    AlignedOutput out(output, q.rows(), q.columns(), memory);
    AlignedOutput lse(DType::f32, q.rows(), shape_.heads, memory);
    cuda::attention(device_q.view(), kv, shape_, device_rows.span(), device_table.span(), out.view(),
                    lse.view(), *stream);
    return {out.on_host(), lse.on_host()};
  }
  Result attend(ConstView q, const std::vector<QueryRows>& rows, DType output, bool with_lse = true) {
    return attend(q, cuda::query_tiles(rows, shape_.heads / shape_.kv_heads), output, with_lse);
  }

  Tensor k, v;  // [rows, kv_heads·D]: the sequences one behind the other
  std::shared_ptr<const cuda::Stream> stream = std::make_shared<const cuda::Stream>();
  cuda::CudaMemory memory{stream};

 private:
  std::int64_t page_elements() const { return shape_.kv_heads * 2 * kPage * shape_.head_dim + 8; }
  Tensor filled_pages() const {
    Tensor pages(DType::bf16, pages_, page_elements(), "test");
    for (Bf16& x : pages.span<Bf16>()) x = to_bf16(before_);
    const std::int64_t dim = shape_.head_dim;
    for (std::size_t s = 0; s < lengths_.size(); ++s) {
      for (std::int64_t i = 0; i < lengths_[s]; ++i) {
        Bf16* page = pages.row<Bf16>(table_[static_cast<std::size_t>(first_page_[s] + i / kPage)]);
        for (std::int64_t c = 0; c < k.columns(); ++c) {
          Bf16* key = page + c / dim * 2 * kPage * dim + i % kPage * dim + c % dim;
          key[0] = to_bf16(k.row<float>(first_row_[s] + i)[c]);
          key[kPage * dim] = to_bf16(v.row<float>(first_row_[s] + i)[c]);
        }
      }
    }
    return pages;
  }
  HeadShape shape_;
  std::vector<std::int32_t> lengths_;
  float before_;
  std::int64_t pages_ = 0;
  std::vector<std::int64_t> first_row_;
  std::vector<std::int32_t> first_page_, table_;
};

Tensor queries(const HeadShape& shape, std::int64_t count, double size = 2) {
  return random_tensor(DType::f32, count, shape.heads * shape.head_dim, size, 11);
}
::testing::AssertionResult same_result(const Result& a, const Result& b) {
  const auto out = same_bits(a.out.view(), b.out.view());
  return out ? same_bits(a.lse.view(), b.lse.view()) : out;
}

class CudaTileAttention : public testing::DeviceTest, public ::testing::WithParamInterface<HeadShape> {};
using CudaTileSegments = testing::DeviceTest;
// Every rounded head dimension, and ones that are not round.
INSTANTIATE_TEST_SUITE_P(Shapes, CudaTileAttention,
                         ::testing::Values(HeadShape{4, 2, 8}, HeadShape{3, 1, 16}, HeadShape{2, 1, 24},
                                           HeadShape{2, 2, 40}, HeadShape{3, 3, 80}, HeadShape{7, 1, 128}));

// Lengths around one and two pages; whole sequences, rows from the middle of a page on, and single rows.
TEST_P(CudaTileAttention, AgreesWithTheFormula) {
  const HeadShape& shape = GetParam();
  Sequences sequences(shape, {1, 63, 64, 65, 130});
  const std::vector<QueryRows> rows{sequences.rows(0, 0, 0, 1),   sequences.rows(1, 4, 129, 1),
                                    sequences.rows(2, 2, 0, 64),  sequences.rows(66, 1, 40, 23),
                                    sequences.rows(89, 3, 64, 1), sequences.rows(90, 4, 60, 70)};
  const Tensor q = queries(shape, 160);
  const Real rounded = rounded_queries(q.view(), shape.head_dim);
  for (const DType output : {DType::f32, DType::bf16}) {
    const Result result = sequences.attend(q.view(), rows, output);
    const ExpectedResult expected = expected_attention(
        rounded, oracle::rounded(matrix_of(sequences.k.view()), DType::bf16),
        oracle::rounded(matrix_of(sequences.v.view()), DType::bf16), shape, sequences.visible(rows), output);
    EXPECT_TRUE(expected.out.agrees_with(result.out.view()));
    EXPECT_TRUE(expected.lse.agrees_with(result.lse.view()));
    const Result plain = sequences.attend_plainly(rounded, rows, output);
    EXPECT_TRUE(expected.out.agrees_with(plain.out.view()));
    EXPECT_TRUE(expected.lse.agrees_with(plain.lse.view()));
    EXPECT_TRUE(same_bits(result.out.view(), sequences.attend(q.view(), rows, output, false).out.view()));
  }
}

// Decode asks for one row at a time, the learner for all rows of a sequence, prefill for some. Large scores make the maxima
// move often. Outputs in f32 and the logarithms show what bf16 would hide.
TEST_P(CudaTileAttention, ARowDoesNotDependOnItsTile) {
  constexpr std::int32_t kLength = 135;
  const HeadShape& shape = GetParam();
  Sequences sequences(shape, {5, kLength}, 6);
  const Tensor q = queries(shape, kLength, 6);
  const Result together =
      sequences.attend(q.view(), std::vector<QueryRows>{sequences.rows(0, 1, 0, kLength)}, DType::f32);

  std::vector<QueryRows> alone;
  alone.reserve(kLength);
  for (std::int32_t t = 0; t < kLength; ++t) alone.push_back(sequences.rows(t, 1, t, 1));
  EXPECT_TRUE(same_result(together, sequences.attend(q.view(), alone, DType::f32)));

  const std::vector<QueryRows> parts{sequences.rows(0, 1, 0, 37), sequences.rows(37, 1, 37, 90),
                                     sequences.rows(127, 1, 127, kLength - 127)};
  EXPECT_TRUE(same_result(together, sequences.attend(q.view(), parts, DType::f32)));

  // Tiles of any size that begin within a row's heads.
  const auto sharing = static_cast<std::int32_t>(shape.heads / shape.kv_heads);
  std::vector<QueryTile> odd;
  constexpr std::array<std::int32_t, 5> kSizes{3, 64, 17, 16, 31};
  for (std::int32_t pair = 0; pair < kLength * sharing;) {
    const std::int32_t size = std::min(kSizes[odd.size() % kSizes.size()], kLength * sharing - pair);
    const KeyRun keys = sequences.rows(0, 1, pair / sharing, 1).keys;
    odd.push_back({pair, size, keys, {}, 0, 0});
    pair += size;
  }
  EXPECT_TRUE(same_result(together, sequences.attend(q.view(), odd, DType::f32)));
}

// The members of a group while they are decoded: the tile reads the prompt's whole pages once.
TEST_P(CudaTileAttention, ARowDoesNotDependOnRowsThatShareItsFirstKeys) {
  constexpr std::int32_t kSharedPages = 2;
  const HeadShape& shape = GetParam();
  const std::vector<std::int32_t> lengths{150, 1, 64, 65, 130, 3, 66, 2, 5, 20, 70};
  Sequences sequences(shape, lengths, 6, std::numeric_limits<float>::quiet_NaN());
  const auto members = static_cast<std::int32_t>(lengths.size()) - 1;
  const Tensor q = queries(shape, members + 30, 6);
  std::vector<QueryRows> alone;
  SharedQueryRows shared{0, sequences.run(0, kSharedPages * kPage), {}};
  for (std::int32_t m = 0; m < members; ++m) {
    const auto own = static_cast<std::size_t>(m) + 1;
    alone.push_back(sequences.joined(m, 0, kSharedPages, own));
    shared.own.push_back(sequences.run(own, lengths[own]));
  }
  const QueryRows prefill = sequences.rows(members, 0, 100, 30);
  alone.push_back(prefill);
  const Result expected = sequences.attend(q.view(), alone, DType::f32);
  const std::int64_t sharing = shape.heads / shape.kv_heads;
  for (const std::int64_t count :
       {std::int64_t{1}, std::int64_t{2}, std::min(cuda::kTilePairs / sharing, std::int64_t{9})}) {
    const ForwardTiles tiles = cuda::forward_tiles({prefill}, {shared}, sharing, count);
    EXPECT_EQ(static_cast<std::int64_t>(tiles.own.size()), members);
    EXPECT_TRUE(same_result(expected, sequences.attend(q.view(), tiles, DType::f32))) << count;
  }
}

TEST_P(CudaTileAttention, ARowThatSeesOneKeyIsItsValue) {
  const HeadShape& shape = GetParam();
  Sequences sequences(shape, {70}, 6);
  const Tensor q = queries(shape, 20, 6);
  const Result result =
      sequences.attend(q.view(), std::vector<QueryRows>{sequences.rows(0, 0, 0, 20)}, DType::f32);
  const Real v = oracle::rounded(matrix_of(sequences.v.view()), DType::bf16);
  for (std::int64_t c = 0; c < q.columns(); ++c) {
    const std::int64_t kv_head = c / shape.head_dim / (shape.heads / shape.kv_heads);
    EXPECT_EQ(element_of(result.out.view(), 0, c), v(0, kv_head * shape.head_dim + c % shape.head_dim)) << c;
  }
}

TEST_P(CudaTileAttention, SameBitsInEveryOrderOfThreads) {
  const HeadShape& shape = GetParam();
  const Tensor q = queries(shape, 46);
  std::optional<Result> first;
  testing::in_every_order([&] {
    Sequences sequences(shape, {3, 130});
    Result result = sequences.attend(
        q.view(), std::vector<QueryRows>{sequences.rows(0, 0, 2, 1), sequences.rows(1, 1, 85, 45)},
        DType::f32);
    if (first)
      EXPECT_TRUE(same_result(*first, result));
    else
      first = std::move(result);
  });
}

// Keys behind a tile's last row, what a page held before, and the keys alone of later rows may be anything.
TEST_P(CudaTileAttention, KeysBeyondTheLengthDoNotMatter) {
  const HeadShape& shape = GetParam();
  const Tensor q = queries(shape, 8);
  const auto attend = [&](float before, float late) {
    Sequences sequences(shape, {70}, 2, before);
    for (std::int64_t t = 0; t < 70; ++t) {
      if (t >= 62) std::fill_n(sequences.k.row<float>(t), sequences.k.columns(), late);
      if (t >= 66) std::fill_n(sequences.v.row<float>(t), sequences.v.columns(), late);
    }
    const Result all = sequences.attend(
        q.view(), std::vector<QueryRows>{sequences.rows(0, 0, 61, 5), sequences.rows(5, 0, 0, 3)},
        DType::f32);
    // Those that see only what is finite.
    Result seen{Tensor(DType::f32, 4, all.out.columns(), "test"),
                Tensor(DType::f32, 4, all.lse.columns(), "test")};
    for (std::int64_t r = 0; r < 4; ++r) {
      host_memory().copy(all.out.view().row_range(r == 0 ? 0 : r + 4, 1), seen.out.view().row_range(r, 1));
      host_memory().copy(all.lse.view().row_range(r == 0 ? 0 : r + 4, 1), seen.lse.view().row_range(r, 1));
    }
    return seen;
  };
  const Result clean = attend(0, 0);
  for (const float value : kNotFinite) EXPECT_TRUE(same_result(clean, attend(value, value))) << value;
}

bool all_of_row(ConstView matrix, std::int64_t row, bool finite) {
  for (std::int64_t c = 0; c < matrix.columns(); ++c) {
    if (std::isfinite(element_of(matrix, row, c)) != finite) return false;
  }
  return true;
}

TEST_P(CudaTileAttention, ANaNThatIsSeenStaysOne) {
  const HeadShape& shape = GetParam();
  const Tensor q = queries(shape, 131);
  for (const std::int64_t bad : {0, 63, 64, 129}) {
    Sequences sequences(shape, {130, 65});
    const std::vector<QueryRows> rows{sequences.rows(0, 0, 0, 130), sequences.rows(130, 1, 64, 1)};
    for (std::int64_t h = 0; h < shape.kv_heads; ++h)
      sequences.k.row<float>(bad)[(h + 1) * shape.head_dim - 1] = kNotFinite[0];
    const Result result = sequences.attend(q.view(), rows, DType::f32);
    for (std::int64_t t = 0; t < q.rows(); ++t) {
      const bool seen = t != 130 && bad <= t;
      EXPECT_TRUE(all_of_row(result.out.view(), t, !seen)) << "key " << bad << " row " << t;
      EXPECT_TRUE(all_of_row(result.lse.view(), t, !seen)) << "key " << bad << " row " << t;
    }
    // Of a value, only its own dimension.
    Sequences others(shape, {130, 65});
    others.v.row<float>(bad)[1] = kNotFinite[0];
    const Result other = others.attend(q.view(), rows, DType::f32);
    EXPECT_TRUE(std::isnan(other.out.row<float>(129)[1]));
    EXPECT_TRUE(std::isfinite(other.out.row<float>(129)[0]));
    EXPECT_TRUE(all_of_row(other.out.view(), 130, true));
  }
}

TEST_P(CudaTileAttention, AQueryThatIsNoNumberGivesNone) {
  const HeadShape& shape = GetParam();
  Sequences sequences(shape, {66});
  const std::vector<QueryRows> rows{sequences.rows(0, 0, 63, 3)};
  Tensor q = queries(shape, 3);
  const Result clean = sequences.attend(q.view(), rows, DType::f32);
  for (const float value : kNotFinite) {
    std::fill_n(q.row<float>(1), q.columns(), value);
    const Result result = sequences.attend(q.view(), rows, DType::f32);
    EXPECT_TRUE(all_of_row(result.out.view(), 1, false)) << value;
    for (const std::int64_t t : {0, 2})
      EXPECT_TRUE(same_bits(result.out.view().row_range(t, 1), clean.out.view().row_range(t, 1))) << value;
  }
}

/// Bidirectional segments of these lengths, one behind the other.
Tensor attend_segments(const HeadShape& shape, ConstView q, ConstView k, ConstView v,
                       const std::vector<std::int32_t>& lengths, DType output) {
  const auto stream = std::make_shared<const cuda::Stream>();
  cuda::CudaMemory memory(stream);
  std::vector<QueryRows> rows;
  std::int32_t first = 0;
  for (const std::int32_t length : lengths) {
    rows.push_back({first, length, {first, length, 0}, {}});
    first += length;
  }
  const DeviceTable<QueryTile> tiles(cuda::query_tiles(rows, 1), memory);
  const Tensor device_q = copied_to(memory, q, "test");
  const Tensor device_k = copied_to(memory, k, "test");
  const Tensor device_v = copied_to(memory, v, "test");
  AlignedOutput out(output, q.rows(), q.columns(), memory);
  cuda::tile_segment_attention(device_q.view(), device_k.view(), device_v.view(), shape, tiles.span(),
                               out.view(), *stream);
  return out.on_host();
}

TEST_F(CudaTileSegments, AgreeWithTheFormulaTogetherAndAlone) {
  const std::vector<std::int32_t> lengths{1, 7, 64, 65, 129};
  std::int64_t count = 0;
  oracle::Visible visible;
  for (const std::int32_t length : lengths) {
    std::vector<std::int64_t> segment(static_cast<std::size_t>(length));
    std::iota(segment.begin(), segment.end(), count);
    visible.insert(visible.end(), segment.size(), segment);
    count += length;
  }
  for (const HeadShape& shape : {HeadShape{2, 2, 8}, HeadShape{2, 2, 80}}) {
    const std::int64_t width = shape.heads * shape.head_dim;
    const Tensor q = queries(shape, count);
    const Tensor k = random_tensor(DType::bf16, count, width, 2, 12);
    const Tensor v = random_tensor(DType::bf16, count, width, 2, 13);
    for (const DType output : {DType::f32, DType::bf16}) {
      const Tensor out = attend_segments(shape, q.view(), k.view(), v.view(), lengths, output);
      const ExpectedResult expected =
          expected_attention(rounded_queries(q.view(), shape.head_dim), matrix_of(k.view()),
                             matrix_of(v.view()), shape, visible, output);
      EXPECT_TRUE(expected.out.agrees_with(out.view()));
      std::int64_t first = 0;
      for (const std::int32_t length : lengths) {
        const Tensor alone =
            attend_segments(shape, q.view().row_range(first, length), k.view().row_range(first, length),
                            v.view().row_range(first, length), {length}, output);
        EXPECT_TRUE(same_bits(alone.view(), out.view().row_range(first, length))) << length;
        first += length;
      }
    }
  }
}

TEST(CudaTiles, CoverEveryPairOnceAndComeLongestFirst) {
  const std::vector<QueryRows> rows{
      {0, 20, {3, 5, 1}, {}}, {20, 1, {9, 300, 1}, {}}, {21, 9, {1, 70, 0}, {4, 2, 1}}};
  const std::vector<QueryTile> tiles = cuda::query_tiles(rows, 7);
  std::vector<int> covered(30 * 7);
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const QueryTile& tile = tiles[i];
    EXPECT_LE(tile.pairs, cuda::kTilePairs);
    if (i > 0) {
      EXPECT_GE(tiles[i - 1].keys.length + tiles[i - 1].own.length, tile.keys.length + tile.own.length);
    }
    const std::int32_t row = tile.first_pair / 7;
    const QueryRows& of = rows[row < 20 ? 0 : row < 21 ? 1 : 2];
    EXPECT_EQ(tile.keys.first, of.keys.first);
    EXPECT_EQ(tile.keys.length, of.keys.length + of.keys.growth * (row - of.first_row));
    EXPECT_EQ(tile.own.length, of.own.length + of.own.growth * (row - of.first_row));
    for (std::int32_t p = 0; p < tile.pairs; ++p)
      ++covered[static_cast<std::size_t>(tile.first_pair) + static_cast<std::size_t>(p)];
  }
  EXPECT_TRUE(std::all_of(covered.begin(), covered.end(), [](int times) { return times == 1; }));
}

TEST(CudaTiles, FitBf16InMultiplesOfEight) {
  EXPECT_TRUE(cuda::tiles_fit({2, 1, 8}, DType::bf16));
  EXPECT_TRUE(cuda::tiles_fit({2, 1, 128}, DType::bf16));
  EXPECT_FALSE(cuda::tiles_fit({2, 1, 128}, DType::f32));
  EXPECT_FALSE(cuda::tiles_fit({2, 1, 12}, DType::bf16));
  EXPECT_FALSE(cuda::tiles_fit({2, 1, 136}, DType::bf16));
}

#ifndef BIQA_ON_DEVICE
TEST(CudaTilesDeathTest, RefuseHeadsThatDoNotFit) {
  Sequences sequences({1, 1, 12}, {3});
  EXPECT_DEATH(sequences.attend(queries({1, 1, 12}, 1).view(),
                                std::vector<QueryRows>{sequences.rows(0, 0, 2, 1)}, DType::f32),
               "heads of 12");
}
#endif

}  // namespace
}  // namespace biqa
