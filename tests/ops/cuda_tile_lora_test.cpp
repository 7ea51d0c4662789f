// SPDX-License-Identifier: Apache-2.0
// The adapter's kernels on tensor cores, against sums in double with the mask of the CPU's counters: in the emulator, or on a
// device in builds with CUDA.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "core/random.h"
#include "ops/cuda/tile_lora.h"
#include "support/compare.h"
#include "support/cuda/aligned_output.h"
#include "support/cuda/device_test.h"

namespace biqa {
namespace {

using cuda::DropoutMask;
using cuda::SplitFactors;
using testing::AlignedOutput;
using testing::DeviceTable;
using testing::DeviceTest;
using testing::element_of;
using testing::ExpectedMatrix;
using testing::random_tensor;
using testing::same_bits;
using testing::sum_bound;

constexpr double kUnit = 0x1.0p-24;
// Of a factor that is split, and of the product of two low halves; docs/numerics.md derives them.
constexpr double kSplitError = 0x1.0p-17;
constexpr double kLowProduct = 0x1.0p-16;

struct Case {
  std::int64_t rows, columns, rank;
  double rate;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.rows << "x" << c.columns << " rank " << c.rank << " rate " << c.rate;
}

class CudaTileLora : public DeviceTest, public ::testing::WithParamInterface<Case> {
 protected:
  CudaTileLora() {
    for (std::int64_t r = 0; r < c_.rows; ++r) keys_.push_back(mix64(static_cast<std::uint64_t>(r) + 7));
  }

  double factor(std::int64_t row, std::int64_t column) const {
    if (c_.rate == 0) return 1;
    const RandomStream stream{kKey, kProjection, keys_[static_cast<std::size_t>(row)]};
    const Words<4> words = stream.bits(static_cast<std::uint64_t>(column / 4));
    const double uniform = words[static_cast<std::size_t>(column % 4)] * 0x1.0p-32;
    return uniform < c_.rate ? 0 : static_cast<double>(static_cast<float>(1 / (1 - c_.rate)));
  }

  /// What the calls below read, in device memory.
  struct Inputs {
    explicit Inputs(const CudaTileLora& test)
        : stream(std::make_shared<cuda::Stream>()),
          memory(stream),
          arena("test", memory),
          x(copied_to(memory, test.x_.view(), "test")),
          g(copied_to(memory, test.g_.view(), "test")),
          a(copied_to(memory, test.a_.view(), "test")),
          high(memory.allocate(DType::bf16, a.rows(), a.columns(), "test")),
          low(memory.allocate(DType::bf16, a.rows(), a.columns(), "test")),
          keys(test.keys_, memory) {
      cuda::split(a.view(), high.view(), low.view(), *stream);
    }
    SplitFactors factors() { return {high.view(), low.view()}; }
    DropoutMask mask(double rate, std::int64_t first, std::int64_t count) const {
      return {rate, kKey, kProjection, {keys.span().data + first, count}};
    }
    std::shared_ptr<cuda::Stream> stream;
    cuda::CudaMemory memory;
    Arena arena;
    Tensor x, g, a, high, low;
    DeviceTable<std::uint64_t> keys;
  };

  /// Rows [first, first + count) of the result.
  Tensor reduce(std::int64_t first, std::int64_t count) const {
    Inputs in(*this);
    AlignedOutput u(DType::f32, count, c_.rank, in.memory);
    cuda::reduce(in.x.view().row_range(first, count), in.factors(), in.mask(c_.rate, first, count), u.view(),
                 in.arena, *in.stream);
    return u.on_host();
  }
  Tensor expand(std::int64_t first, std::int64_t count) const {
    Inputs in(*this);
    AlignedOutput y(DType::f32, count, c_.columns, in.memory);
    in.memory.copy(y_.view().row_range(first, count), y.view());
    cuda::expand(in.g.view().row_range(first, count), in.factors(), kScale, in.mask(c_.rate, first, count),
                 y.view(), *in.stream);
    return y.on_host();
  }
  Tensor outer(bool transposed) const {
    Inputs in(*this);
    const Tensor before = start(transposed);
    AlignedOutput target(DType::f32, before.rows(), before.columns(), in.memory);
    in.memory.copy(before.view(), target.view());
    cuda::outer(in.g.view(), in.x.view(), in.mask(c_.rate, 0, c_.rows), kScale, transposed, target.view(),
                in.arena, *in.stream);
    return target.on_host();
  }
  Tensor start(bool transposed) const {
    return random_tensor(DType::f32, transposed ? c_.columns : c_.rank, transposed ? c_.rank : c_.columns, 1,
                         5);
  }

  static constexpr std::uint64_t kKey = 99, kProjection = 2;
  static constexpr float kScale = 1.7F;
  const Case& c_ = GetParam();
  std::vector<std::uint64_t> keys_;
  Tensor x_ = random_tensor(DType::bf16, c_.rows, c_.columns, 2, 1);
  Tensor a_ = random_tensor(DType::f32, c_.rank, c_.columns, 1, 2);
  Tensor g_ = random_tensor(DType::f32, c_.rows, c_.rank, 1, 3);
  Tensor y_ = random_tensor(DType::f32, c_.rows, c_.columns, 1, 4);
};
// Tails of every tile; several parts of the columns (1096, 3584) and of the rows (600); more ranks than a block takes.
INSTANTIATE_TEST_SUITE_P(Cases, CudaTileLora,
                         ::testing::Values(Case{1, 8, 1, 0}, Case{3, 3584, 16, 0.1}, Case{70, 72, 17, 0},
                                           Case{65, 1096, 8, 0.5}, Case{600, 40, 9, 0.25},
                                           Case{16, 64, 100, 0}, Case{5, 136, 64, 0.1}));

/// A sum of a kernel: its value, the sum of the terms' sizes.
struct Sum {
  double value = 0, magnitude = 0;
  void add(double term) {
    value += term;
    magnitude += std::abs(term);
  }
};

TEST_P(CudaTileLora, ReduceAgreesWithTheFormula) {
  ExpectedMatrix expected(c_.rows, c_.rank);
  for (std::int64_t t = 0; t < c_.rows; ++t) {
    for (std::int64_t r = 0; r < c_.rank; ++r) {
      Sum sum;
      for (std::int64_t i = 0; i < c_.columns; ++i)
        sum.add(factor(t, i) * element_of(x_.view(), t, i) * element_of(a_.view(), r, i));
      // Both halves of a factor are terms; the mask's factor is one more rounding.
      expected.set(t, r, sum.value,
                   sum_bound(2 * c_.columns, sum.magnitude, DType::f32, sum.value) +
                       (kSplitError + kUnit) * sum.magnitude);
    }
  }
  EXPECT_TRUE(expected.agrees_with(reduce(0, c_.rows).view()));
}

TEST_P(CudaTileLora, ExpandAgreesWithTheFormula) {
  ExpectedMatrix expected(c_.rows, c_.columns);
  for (std::int64_t t = 0; t < c_.rows; ++t) {
    for (std::int64_t i = 0; i < c_.columns; ++i) {
      Sum sum;
      for (std::int64_t r = 0; r < c_.rank; ++r)
        sum.add(element_of(g_.view(), t, r) * element_of(a_.view(), r, i));
      const double weight = factor(t, i) * static_cast<double>(kScale);
      const double value = element_of(y_.view(), t, i) + weight * sum.value;
      // Both operands are split and the product of their low halves is left out. Scale and mask are one rounding each.
      const double bound = weight * (sum_bound(3 * c_.rank, sum.magnitude, DType::f32, 0) +
                                     (2 * kSplitError + kLowProduct + 2 * kUnit) * sum.magnitude);
      expected.set(t, i, value, bound + kUnit * std::abs(value));
    }
  }
  EXPECT_TRUE(expected.agrees_with(expand(0, c_.rows).view()));
}

TEST_P(CudaTileLora, OuterAgreesWithTheFormula) {
  for (const bool transposed : {false, true}) {
    const Tensor before = start(transposed);
    ExpectedMatrix expected(before.rows(), before.columns());
    for (std::int64_t r = 0; r < c_.rank; ++r) {
      for (std::int64_t i = 0; i < c_.columns; ++i) {
        Sum sum;
        for (std::int64_t t = 0; t < c_.rows; ++t)
          sum.add(element_of(g_.view(), t, r) * factor(t, i) * element_of(x_.view(), t, i));
        const std::int64_t row = transposed ? i : r;
        const std::int64_t column = transposed ? r : i;
        const auto scale = static_cast<double>(kScale);
        const double value = element_of(before.view(), row, column) + scale * sum.value;
        const double bound = scale * (sum_bound(2 * c_.rows, sum.magnitude, DType::f32, 0) +
                                      (kSplitError + 2 * kUnit) * sum.magnitude);
        expected.set(row, column, value, bound + kUnit * std::abs(value));
      }
    }
    EXPECT_TRUE(expected.agrees_with(outer(transposed).view()));
  }
}

TEST_P(CudaTileLora, SameBitsInEveryOrderAndForARowAlone) {
  const Tensor u = reduce(0, c_.rows);
  const Tensor y = expand(0, c_.rows);
  const Tensor gradient = outer(false);
  const Tensor transposed = outer(true);
  testing::in_every_order([&] {
    EXPECT_TRUE(same_bits(reduce(0, c_.rows).view(), u.view()));
    EXPECT_TRUE(same_bits(expand(0, c_.rows).view(), y.view()));
    EXPECT_TRUE(same_bits(outer(false).view(), gradient.view()));
    EXPECT_TRUE(same_bits(outer(true).view(), transposed.view()));
  });
  for (const std::int64_t row : {std::int64_t{0}, c_.rows / 2, c_.rows - 1}) {
    EXPECT_TRUE(same_bits(reduce(row, 1).view(), u.view().row_range(row, 1)));
    EXPECT_TRUE(same_bits(expand(row, 1).view(), y.view().row_range(row, 1)));
  }
}

class CudaTileLoraCalls : public DeviceTest {};

TEST_F(CudaTileLoraCalls, SplitKeepsSixteenBits) {
  const auto stream = std::make_shared<cuda::Stream>();
  cuda::CudaMemory memory(stream);
  Tensor factors = random_tensor(DType::f32, 3, 333, 2, 1);
  factors.row<float>(0)[0] = 0x1.fep-126F;   // the rest is no normal number
  factors.row<float>(0)[1] = 0x1.fefffep0F;  // the rest is rounded up
  factors.row<float>(0)[2] = -0.0F;
  const Tensor device = copied_to(memory, factors.view(), "test");
  Tensor high = memory.allocate(DType::bf16, 3, 333, "test");
  Tensor low = memory.allocate(DType::bf16, 3, 333, "test");
  cuda::split(device.view(), high.view(), low.view(), *stream);
  const Tensor high_values = copied_to_host(memory, high.view(), "test");
  const Tensor low_values = copied_to_host(memory, low.view(), "test");
  for (std::int64_t i = 0; i < factors.size(); ++i) {
    const double value = element_of(factors.view(), i / 333, i % 333);
    const double rounded = element_of(high_values.view(), i / 333, i % 333);
    EXPECT_EQ(rounded, static_cast<double>(to_float(to_bf16(static_cast<float>(value))))) << i;
    EXPECT_LE(std::abs(rounded + element_of(low_values.view(), i / 333, i % 333) - value),
              kSplitError * std::abs(value) + 0x1.0p-134)  // half of the smallest bf16
        << i;
  }
}

#ifndef BIQA_ON_DEVICE
TEST(CudaTileLoraDeathTest, RefusesShapesThatDisagreeOrDoNotFit) {
  const auto stream = std::make_shared<cuda::Stream>();
  cuda::CudaMemory memory(stream);
  Arena arena("test", memory);
  Tensor x = memory.allocate(DType::bf16, 2, 24, "x");
  Tensor factors = memory.allocate(DType::bf16, 3, 24, "factors");
  Tensor u = memory.allocate(DType::f32, 2, 3, "u");
  const SplitFactors split{factors.view(), factors.view()};
  EXPECT_DEATH(cuda::reduce(x.view(), split, {}, factors.view(), arena, *stream), "u 3x24");
  EXPECT_DEATH(cuda::reduce(x.view(), split, {0.5, 0, 0, {}}, u.view(), arena, *stream), "0 keys for 2 rows");
  EXPECT_DEATH(cuda::outer(u.view(), x.view(), {}, 1, false, u.view(), arena, *stream), "target 2x3");
  const SplitFactors narrow{factors.view().column_range(4, 8), factors.view().column_range(4, 8)};
  EXPECT_DEATH(cuda::reduce(x.view().column_range(0, 8), narrow, {}, u.view(), arena, *stream),
               "3x8 of stride 24 does not fit tiles");
}

TEST(CudaTileLoraRows, NothingIsNoWork) {
  const auto stream = std::make_shared<cuda::Stream>();
  cuda::CudaMemory memory(stream);
  Arena arena("test", memory);
  const Tensor x(DType::bf16, 0, 8, "x");
  const Tensor u(DType::f32, 0, 3, "u");
  const Tensor factors = memory.allocate(DType::bf16, 3, 8, "factors");
  Tensor gradient = memory.allocate(DType::f32, 3, 8, "gradient");
  Tensor y(DType::f32, 0, 8, "y");
  Tensor no_rows(DType::f32, 0, 3, "u");
  const SplitFactors split{factors.view(), factors.view()};
  cuda::reduce(x.view(), split, {}, no_rows.view(), arena, *stream);
  cuda::expand(u.view(), split, 1, {}, y.view(), *stream);
  cuda::outer(u.view(), x.view(), {}, 1, false, gradient.view(), arena, *stream);
}
#endif

}  // namespace
}  // namespace biqa
