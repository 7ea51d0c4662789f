// SPDX-License-Identifier: Apache-2.0
// Heads with bias, the adapter's terms and rotation (tile_heads.h) against formulas in double: in the emulator, or on a device in
// builds with CUDA.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <ostream>
#include <vector>

#include "ops/cuda/tile_heads.h"
#include "support/compare.h"
#include "support/cuda/aligned_output.h"
#include "support/cuda/device_test.h"
#include "support/cuda/low_rank_operands.h"

namespace biqa {
namespace {

using cuda::LowRankTerm;
using testing::AlignedOutput;
using testing::Bounded;
using testing::DeviceOperands;
using testing::DeviceTest;
using testing::element_of;
using testing::ExpectedMatrix;
using testing::kUnit;
using testing::kUnit16;
using testing::LowRankOperands;
using testing::random_tensor;
using testing::same_bits;
using testing::sum_of;

struct Case {
  std::int64_t rows;
  HeadShape shape;
  std::array<std::int64_t, 3> ranks;  // 0: no term
  bool bias;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.rows << " rows, heads " << c.shape.heads << " and " << c.shape.kv_heads << " of "
             << c.shape.head_dim << (c.bias ? ", bias" : "");
}

class CudaTileHeads : public DeviceTest, public ::testing::WithParamInterface<Case> {
 protected:
  std::int64_t columns_of(std::size_t projection) const {
    return (projection == 0 ? c_.shape.heads : c_.shape.kv_heads) * c_.shape.head_dim;
  }

  /// Rows [first, first + count) of the result.
  Tensor finish(std::int64_t first, std::int64_t count) const {
    DeviceOperands device;
    std::array<LowRankTerm, 3> terms;
    for (std::size_t p = 0; p < terms.size(); ++p) terms[p] = terms_[p].term(device, first, count);
    AlignedOutput x(DType::bf16, count, x_.columns(), device.memory);
    device.memory.copy(x_.view().row_range(first, count), x.view());
    cuda::finish_heads(x.view(), c_.bias ? device.upload(bias_.view()) : ConstView(), terms, c_.shape,
                       device.upload(cosines_.view().row_range(first, count)),
                       device.upload(sines_.view().row_range(first, count)), *device.stream);
    return x.on_host();
  }

  /// Element `column` of row t before rotation.
  Bounded sum_at(std::int64_t t, std::size_t projection, std::int64_t begin, std::int64_t column) const {
    return sum_of(element_of(x_.view(), t, column), c_.bias ? element_of(bias_.view(), 0, column) : 0,
                  terms_[projection].at(t, column - begin));
  }
  ExpectedMatrix expected() const {
    ExpectedMatrix result(c_.rows, x_.columns());
    const std::int64_t half = c_.shape.head_dim / 2;
    for (std::int64_t t = 0; t < c_.rows; ++t) {
      std::int64_t begin = 0;
      for (std::size_t p = 0; p < 3; ++p) {
        for (std::int64_t head = begin; head < begin + columns_of(p); head += 2 * half) {
          for (std::int64_t j = 0; j < half; ++j) {
            const Bounded a = sum_at(t, p, begin, head + j);
            const Bounded b = sum_at(t, p, begin, head + j + half);
            const double c = p == 2 ? 1 : element_of(cosines_.view(), t, j);
            const double s = p == 2 ? 0 : element_of(sines_.view(), t, j);
            set(result, t, head + j, a, c, b, -s);
            set(result, t, head + j + half, b, c, a, s);
          }
        }
        begin += columns_of(p);
      }
    }
    return result;
  }
  /// a · c + b · s: two products and their sum, each rounded; then bf16.
  static void set(ExpectedMatrix& result, std::int64_t row, std::int64_t column, const Bounded& a, double c,
                  const Bounded& b, double s) {
    const double value = a.value * c + b.value * s;
    const double size = std::abs(a.value * c) + std::abs(b.value * s);
    result.set(row, column, value,
               a.error * std::abs(c) + b.error * std::abs(s) + 2 * kUnit * size + kUnit16 * std::abs(value));
  }

  const Case& c_ = GetParam();
  const Tensor x_ =
      random_tensor(DType::bf16, c_.rows, (c_.shape.heads + 2 * c_.shape.kv_heads) * c_.shape.head_dim, 2, 1);
  const Tensor bias_ = random_tensor(DType::f32, 1, x_.columns(), 1, 2);
  const Tensor cosines_ = random_tensor(DType::f32, c_.rows, c_.shape.head_dim / 2, 1, 3);
  const Tensor sines_ = random_tensor(DType::f32, c_.rows, c_.shape.head_dim / 2, 1, 4);
  const std::array<LowRankOperands, 3> terms_{LowRankOperands(c_.rows, columns_of(0), c_.ranks[0], 5),
                                              LowRankOperands(c_.rows, columns_of(1), c_.ranks[1], 7),
                                              LowRankOperands(c_.rows, columns_of(2), c_.ranks[2], 9)};
};
// Every head dimension that is compiled, tails of the row tiles, and every term missing once.
INSTANTIATE_TEST_SUITE_P(Cases, CudaTileHeads,
                         ::testing::Values(Case{1, {4, 2, 16}, {8, 8, 8}, true},
                                           Case{70, {2, 1, 32}, {0, 17, 3}, true},
                                           Case{17, {3, 3, 64}, {4, 0, 20}, false},
                                           Case{20, {2, 2, 80}, {0, 0, 0}, true},
                                           Case{65, {7, 1, 128}, {16, 16, 0}, true}));

TEST_P(CudaTileHeads, AgreesWithTheFormula) {
  EXPECT_TRUE(expected().agrees_with(finish(0, c_.rows).view()));
}

TEST_P(CudaTileHeads, SameBitsInEveryOrderAndForARowAlone) {
  const Tensor whole = finish(0, c_.rows);
  testing::in_every_order([&] { EXPECT_TRUE(same_bits(finish(0, c_.rows).view(), whole.view())); });
  for (const std::int64_t row : {std::int64_t{0}, c_.rows / 2, c_.rows - 1})
    EXPECT_TRUE(same_bits(finish(row, 1).view(), whole.view().row_range(row, 1)));
}

#ifndef BIQA_ON_DEVICE
TEST(CudaTileHeadsDeathTest, RefusesShapesThatDisagree) {
  const auto stream = std::make_shared<cuda::Stream>();
  cuda::CudaMemory memory(stream);
  Tensor x = memory.allocate(DType::bf16, 2, 64, "x");
  Tensor angles = memory.allocate(DType::f32, 2, 8, "angles");
  Tensor u = memory.allocate(DType::f32, 2, 3, "u");
  Tensor factors = memory.allocate(DType::bf16, 3, 16, "factors");
  const auto finish = [&](const HeadShape& shape, ConstView bias, ConstView cosines,
                          const LowRankTerm& term) {
    cuda::finish_heads(x.view(), bias, {term, {}, {}}, shape, cosines, angles.view(), *stream);
  };
  const HeadShape shape{2, 1, 16};
  EXPECT_DEATH(finish({2, 1, 24}, {}, angles.view(), {}), "heads of 24 bf16");
  EXPECT_DEATH(finish(shape, angles.view(), angles.view(), {}), "2x8");
  EXPECT_DEATH(finish(shape, {}, u.view(), {}), "2x3 for 2x64");
  EXPECT_DEATH(finish(shape, {}, angles.view(), {u.view(), {factors.view(), factors.view()}, 1, {}}),
               "u 2x3, factors 3x16, matrix 2x32");
}
#endif

}  // namespace
}  // namespace biqa
