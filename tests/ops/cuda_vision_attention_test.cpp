// SPDX-License-Identifier: Apache-2.0
// The vision tower's attention by cuDNN: in the emulator its stand-in, on a device cuDNN itself beside our own kernel.
#include "ops/cuda/vision_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "ops/backends.h"
#include "ops/cuda/attention_tiles.h"
#include "ops/cuda/buffers.h"
#include "support/compare.h"
#include "support/cuda/aligned_output.h"
#include "support/cuda/device_test.h"
#include "support/oracle.h"

namespace biqa {
namespace {

using Boundaries = std::vector<std::int64_t>;
using cuda::segment_batches;
using cuda::SegmentBatch;
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
constexpr double kExpError = 0x1.0p-22;  // of the device's power function, relative

/// Boundaries of segments with these lengths, which begin at row `first`.
Boundaries boundaries_of(const Boundaries& lengths, std::int64_t first = 0) {
  Boundaries boundaries{first};
  for (const std::int64_t length : lengths) boundaries.push_back(boundaries.back() + length);
  return boundaries;
}
/// Window lengths of a picture: `rows` rows of windows with `columns` whole ones each, edges of `right` and `bottom` patches
/// (0: none) beside windows of `side`².
Boundaries windows_of(std::int64_t rows, std::int64_t columns, std::int64_t side, std::int64_t right,
                      std::int64_t bottom) {
  Boundaries lengths;
  for (std::int64_t r = 0; r <= rows; ++r) {
    const std::int64_t height = r < rows ? side : bottom;
    for (std::int64_t c = 0; c <= columns; ++c) {
      const std::int64_t width = c < columns ? side : right;
      if (height * width > 0) lengths.push_back(height * width);
    }
  }
  return lengths;
}

TEST(SegmentBatches, JoinSegmentsOfEqualLengthAndDistance) {
  // Three rows of four whole windows and an edge, then a bottom edge and its corner.
  EXPECT_EQ(segment_batches(boundaries_of(windows_of(3, 4, 8, 2, 4))),
            (std::vector<SegmentBatch>{{0, 4, 64, 64},
                                       {256, 3, 16, 272},
                                       {272, 4, 64, 64},
                                       {544, 4, 64, 64},
                                       {816, 4, 32, 32},
                                       {944, 1, 8, 8}}));
  // A tall picture: a batch for each column.
  EXPECT_EQ(segment_batches(boundaries_of(windows_of(5, 2, 8, 2, 0))),
            (std::vector<SegmentBatch>{{0, 5, 64, 144}, {64, 5, 64, 144}, {128, 5, 16, 144}}));
  EXPECT_EQ(segment_batches(boundaries_of(windows_of(5, 4, 8, 0, 0), 7)),
            (std::vector<SegmentBatch>{{7, 20, 64, 64}}));
  EXPECT_EQ(segment_batches(boundaries_of({3996})), (std::vector<SegmentBatch>{{0, 1, 3996, 3996}}));
  EXPECT_TRUE(segment_batches({}).empty());
}

TEST(SegmentBatches, HaveEverySegmentOnce) {
  std::uint64_t state = 5;
  for (int round = 0; round < 200; ++round) {
    Boundaries lengths;
    for (std::uint64_t i = 0; i < 1 + mix64(++state) % 40; ++i)
      lengths.push_back(static_cast<std::int64_t>(4 + 4 * (mix64(++state) % 3)));
    const Boundaries boundaries = boundaries_of(lengths, round);
    std::vector<std::pair<std::int64_t, std::int64_t>> segments, covered;
    for (std::size_t s = 0; s < lengths.size(); ++s) segments.emplace_back(boundaries[s], lengths[s]);
    for (const SegmentBatch& batch : segment_batches(boundaries)) {
      for (std::int64_t i = 0; i < batch.count; ++i)
        covered.emplace_back(batch.first + i * batch.distance, batch.length);
    }
    std::sort(covered.begin(), covered.end());
    EXPECT_EQ(covered, segments) << "round " << round;
  }
}

TEST(CheckVisionAttention, NamesWhatCudnnNeeds) {
  const auto error = [](const char* device, DType type, std::int64_t head_dim, VisionAttentionBy attention) {
    try {
      check_vision_attention({device, type, 0, 0, attention}, head_dim);
    } catch (const Error& refused) {
      return std::string(refused.what());
    }
    return std::string();
  };
  const auto cudnn = VisionAttentionBy::cudnn;
  EXPECT_EQ(error("cuda", DType::bf16, 80, cudnn), "");
  EXPECT_EQ(error("cuda", DType::bf16, 128, cudnn), "");
  EXPECT_EQ(error("cpu", DType::f32, 12, VisionAttentionBy::own), "");
  EXPECT_NE(error("cpu", DType::bf16, 80, cudnn).find("device cpu"), std::string::npos);
  EXPECT_NE(error("cuda", DType::f32, 80, cudnn).find("dtype f32"), std::string::npos);
  for (const std::int64_t head_dim : {12, 136})
    EXPECT_NE(error("cuda", DType::bf16, head_dim, cudnn).find(std::to_string(head_dim)), std::string::npos);
}

oracle::Visible visible_of(const Boundaries& boundaries) {
  oracle::Visible visible(static_cast<std::size_t>(boundaries.front()));
  for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
    const auto length = static_cast<std::size_t>(boundaries[s + 1] - boundaries[s]);
    std::vector<std::int64_t> segment(length);
    std::iota(segment.begin(), segment.end(), boundaries[s]);
    visible.insert(visible.end(), length, segment);
  }
  return visible;
}

/// The formula in double with the bound that docs/numerics.md derives.
struct Expectation {
  Expectation(std::int64_t rows, std::int64_t columns) : value(rows, columns), bound(rows, columns) {}
  Real value, bound;
};
Expectation expected_attention(const Real& q, ConstView keys, ConstView values, const HeadShape& shape,
                               const oracle::Visible& visible) {
  const Real k = matrix_of(keys);
  const Real v = matrix_of(values);
  const std::int64_t dim = shape.head_dim;
  Expectation expected(q.rows, q.columns);
  for (std::int64_t t = 0; t < static_cast<std::int64_t>(visible.size()); ++t) {
    const auto& seen = visible[static_cast<std::size_t>(t)];
    const auto count = static_cast<std::int64_t>(seen.size());
    for (std::int64_t h = 0; h < shape.heads && count > 0; ++h) {
      const auto p = oracle::probabilities(q, k, t, h * dim, h * dim, dim, seen);
      double largest = 0;
      for (const std::int64_t j : seen) {
        double size = 0;
        for (std::int64_t d = 0; d < dim; ++d) size += std::abs(q(t, h * dim + d) * k(j, h * dim + d));
        largest = std::max(largest, size);
      }
      constexpr std::int64_t kSmallestBlock = 32;
      const std::int64_t blocks = (count + kSmallestBlock - 1) / kSmallestBlock;
      const double score_error = (relative_bound(dim) + 5 * kUnit) * largest / std::sqrt(double(dim));
      const double sum_error =
          relative_bound(count) + static_cast<double>(4 * blocks + 4) * kUnit + 2 * kExpError;
      for (std::int64_t d = 0; d < dim; ++d) {
        double value = 0;
        double magnitude = 0;
        for (std::size_t j = 0; j < seen.size(); ++j) {
          value += p[j] * v(seen[j], h * dim + d);
          magnitude += p[j] * std::abs(v(seen[j], h * dim + d));
        }
        expected.value(t, h * dim + d) = value;
        expected.bound(t, h * dim + d) = (2 * (score_error + sum_error) + roundoff(DType::bf16)) * magnitude +
                                         roundoff(DType::bf16) * std::abs(value);
      }
    }
  }
  return expected;
}
/// Elements from row `first` on.
ExpectedMatrix matrix_from(const Expectation& expected, std::int64_t first) {
  ExpectedMatrix matrix(expected.value.rows, expected.value.columns);
  for (std::int64_t r = first; r < matrix.rows(); ++r) {
    for (std::int64_t c = 0; c < matrix.columns(); ++c)
      matrix.set(r, c, expected.value(r, c), expected.bound(r, c));
  }
  return matrix;
}

/// q, k and v beside each other, as the product of the tower leaves them.
class Rows {
 public:
  Rows(const HeadShape& shape, std::int64_t rows, std::uint64_t seed)
      : width(shape.heads * shape.head_dim), qkv(random_tensor(DType::bf16, rows, 3 * width, 2, seed)) {}
  ConstView part(std::int64_t i) const { return qkv.view().column_range(i * width, width); }
  std::int64_t width;
  Tensor qkv;
};

class CudaVisionAttention : public testing::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    stream_ = std::make_shared<const cuda::Stream>();
    memory_ = std::make_unique<cuda::CudaMemory>(stream_);
    attention_ = cuda::make_vision_attention(*stream_);
  }
  void TearDown() override { attention_.reset(); }

  /// Attention of pictures one after another, in a matrix in which they begin at the first boundary of the first one.
  Tensor attend(const HeadShape& shape, const Rows& rows, const std::vector<Boundaries>& pictures) {
    const Tensor device = copied_to(*memory_, rows.qkv.view(), "test");
    const auto part = [&](std::int64_t i) {
      return device.const_view().column_range(i * rows.width, rows.width);
    };
    Tensor workspace = memory_->allocate(DType::u8, 1, cuda::kVisionWorkspaceBytes, "workspace");
    AlignedOutput out(DType::bf16, device.rows(), rows.width, *memory_);
    for (const Boundaries& boundaries : pictures) {
      attention_->attend(part(0), part(1), part(2), shape, segment_batches(boundaries), out.view(),
                         workspace.view());
    }
    return out.on_host(pictures.front().front());
  }
  Tensor attend_by_own_kernel(const HeadShape& shape, const Rows& rows, const Boundaries& boundaries) {
    std::vector<cuda::QueryRows> queries;
    for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
      const auto first = static_cast<std::int32_t>(boundaries[s]);
      const auto length = static_cast<std::int32_t>(boundaries[s + 1] - boundaries[s]);
      queries.push_back({first, length, {first, length, 0}, {}});
    }
    const DeviceTable<cuda::QueryTile> tiles(cuda::query_tiles(queries, 1), *memory_);
    Tensor q(DType::f32, rows.qkv.rows(), rows.width, "test");
    for (std::int64_t r = 0; r < q.rows(); ++r) {
      for (std::int64_t c = 0; c < rows.width; ++c)
        q.row<float>(r)[c] = static_cast<float>(testing::element_of(rows.part(0), r, c));
    }
    const Tensor device_q = copied_to(*memory_, q.view(), "test");
    const Tensor device = copied_to(*memory_, rows.qkv.view(), "test");
    AlignedOutput out(DType::bf16, device.rows(), rows.width, *memory_);
    cuda::tile_segment_attention(device_q.view(), device.view().column_range(rows.width, rows.width),
                                 device.view().column_range(2 * rows.width, rows.width), shape, tiles.span(),
                                 out.view(), *stream_);
    return out.on_host();
  }

  std::shared_ptr<const cuda::Stream> stream_;
  std::unique_ptr<cuda::CudaMemory> memory_;
  std::unique_ptr<cuda::VisionAttention> attention_;
};

struct Setting {
  HeadShape shape;
  Boundaries lengths;
};
/// Windows with edges, a picture whose edges are a single merged cell, and whole pictures.
std::vector<Setting> settings() {
  return {{{2, 2, 80}, windows_of(2, 2, 8, 6, 2)},
          {{2, 2, 80}, {300}},
          {{2, 2, 16}, windows_of(3, 1, 4, 2, 2)},
          {{2, 2, 8}, {1, 7, 64, 65, 129}},
          {{1, 1, 128}, windows_of(1, 3, 8, 0, 4)}};
}

TEST_F(CudaVisionAttention, AgreesWithTheFormula) {
  constexpr std::int64_t kBefore = 4;  // rows that belong to no segment
  std::uint64_t seed = 30;
  for (const auto& [shape, lengths] : settings()) {
    SCOPED_TRACE(::testing::Message()
                 << "heads of " << shape.head_dim << ", " << lengths.size() << " segments");
    const Boundaries boundaries = boundaries_of(lengths, kBefore);
    const Rows rows(shape, boundaries.back(), ++seed);
    const Tensor out = attend(shape, rows, {boundaries});
    const Expectation expected = expected_attention(matrix_of(rows.part(0)), rows.part(1), rows.part(2),
                                                    shape, visible_of(boundaries));
    EXPECT_TRUE(matrix_from(expected, kBefore).agrees_with(out.view()));
  }
}

/// The two kernels differ only in the rounding of the queries, whose effect the formula computes.
TEST_F(CudaVisionAttention, AgreesWithOurOwnKernel) {
  std::uint64_t seed = 40;
  for (const Setting& setting : settings()) {
    const HeadShape& shape = setting.shape;
    const auto& lengths = setting.lengths;
    SCOPED_TRACE(::testing::Message()
                 << "heads of " << shape.head_dim << ", " << lengths.size() << " segments");
    const Boundaries boundaries = boundaries_of(lengths);
    const Rows rows(shape, boundaries.back(), ++seed);
    const auto formula = [&](const Real& q) {
      return expected_attention(q, rows.part(1), rows.part(2), shape, visible_of(boundaries));
    };
    const Real exact = matrix_of(rows.part(0));
    Real rounded = exact;
    const float factor = 1.44269504F / std::sqrt(static_cast<float>(shape.head_dim));
    for (double& x : rounded.values)
      x = to_float(to_bf16(static_cast<float>(x) * factor)) /
          (std::log2(std::exp(1.0)) / std::sqrt(double(shape.head_dim)));
    const Expectation here = formula(exact);
    const Expectation there = formula(rounded);
    const Tensor own = attend_by_own_kernel(shape, rows, boundaries);
    ExpectedMatrix expected(own.rows(), own.columns());
    for (std::int64_t r = 0; r < own.rows(); ++r) {
      for (std::int64_t c = 0; c < own.columns(); ++c) {
        expected.set(r, c, testing::element_of(own.view(), r, c),
                     here.bound(r, c) + there.bound(r, c) + std::abs(here.value(r, c) - there.value(r, c)));
      }
    }
    EXPECT_TRUE(expected.agrees_with(attend(shape, rows, {boundaries}).view()));
  }
}

/// Alone, among others, and after pictures of other sizes: cuDNN may reuse kernels that it compiled for them.
TEST_F(CudaVisionAttention, APictureHasTheSameBitsInAnyCompany) {
  const HeadShape shape{2, 2, 80};
  std::vector<Boundaries> pictures;
  std::int64_t first = 0;
  for (const Boundaries& lengths :
       {windows_of(2, 2, 8, 6, 2), Boundaries{300}, windows_of(3, 2, 8, 0, 0), windows_of(2, 2, 8, 6, 2)}) {
    pictures.push_back(boundaries_of(lengths, first));
    first = pictures.back().back();
  }
  const Rows rows(shape, first, 50);
  const Tensor together = attend(shape, rows, pictures);
  for (std::size_t i = pictures.size(); i-- > 0;) {
    attention_ = cuda::make_vision_attention(*stream_);  // has seen no other picture
    const std::int64_t begin = pictures[i].front();
    const std::int64_t count = pictures[i].back() - begin;
    Rows one(shape, count, 0);
    host_memory().copy(rows.qkv.view().row_range(begin, count), one.qkv.view());
    Boundaries boundaries = pictures[i];
    for (std::int64_t& boundary : boundaries) boundary -= begin;
    const Tensor alone = attend(shape, one, {boundaries});
    EXPECT_TRUE(same_bits(alone.view(), together.view().row_range(begin, count))) << "picture " << i;
  }
}

}  // namespace
}  // namespace biqa
