// SPDX-License-Identifier: Apache-2.0
// The adapter's kernels on tensor cores, against sums in double with the mask of the CPU's counters: in the emulator, or on a
// device in builds with CUDA.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>

#include "core/random.h"
#include "ops/cuda/tile_lora.h"
#include "support/compare.h"
#include "support/cuda/aligned_output.h"
#include "support/cuda/device_test.h"
#include "support/lora_reference.h"

namespace biqa {
namespace {

using cuda::DropoutMask;
using cuda::SplitFactors;
using testing::AlignedOutput;
using testing::DeviceTable;
using testing::DeviceTest;
using testing::element_of;
using testing::LoraReference;
using testing::random_tensor;
using testing::same_bits;

// Of a factor that is split, and of the product of two low halves; docs/numerics.md derives them.
constexpr double kSplitError = 0x1.0p-17;
constexpr double kLowProduct = 0x1.0p-16;

using Case = testing::LoraProductCase;

class CudaTileLora : public DeviceTest, public ::testing::WithParamInterface<Case> {
 protected:
  /// What the calls below read, in device memory.
  struct Inputs {
    explicit Inputs(const CudaTileLora& test)
        : stream(std::make_shared<cuda::Stream>()),
          memory(stream),
          arena("test", memory),
          x(copied_to(memory, test.reference_.x.view(), "test")),
          g(copied_to(memory, test.reference_.g.view(), "test")),
          a(copied_to(memory, test.reference_.a.view(), "test")),
          high(memory.allocate(DType::bf16, a.rows(), a.columns(), "test")),
          low(memory.allocate(DType::bf16, a.rows(), a.columns(), "test")),
          keys(test.reference_.keys, memory) {
      cuda::split(a.view(), high.view(), low.view(), *stream);
    }
    SplitFactors factors() { return {high.view(), low.view()}; }
    DropoutMask mask(double rate, std::int64_t first, std::int64_t count) const {
      return {rate, LoraReference::kKey, LoraReference::kProjection, {keys.span().data + first, count}};
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
    in.memory.copy(reference_.y.view().row_range(first, count), y.view());
    const cuda::LowRankTerm term{in.g.view().row_range(first, count), in.factors(), LoraReference::kScale,
                                 in.mask(c_.rate, first, count)};
    cuda::expand(std::array{term}, y.view(), *in.stream);
    return y.on_host();
  }
  Tensor outer(bool transposed) const {
    Inputs in(*this);
    const Tensor before = reference_.target(transposed);
    AlignedOutput target(DType::f32, before.rows(), before.columns(), in.memory);
    in.memory.copy(before.view(), target.view());
    cuda::outer(in.g.view(), in.x.view(), in.mask(c_.rate, 0, c_.rows), LoraReference::kScale, transposed,
                target.view(), in.arena, *in.stream);
    return target.on_host();
  }
  const Case& c_ = GetParam();
  const LoraReference reference_{c_};
};
// Tails of every tile; several parts of the columns (1096, 3584) and of the rows (600); more ranks than a block takes.
INSTANTIATE_TEST_SUITE_P(Cases, CudaTileLora,
                         ::testing::Values(Case{1, 8, 1, DType::bf16, 0}, Case{3, 3584, 16, DType::bf16, 0.1},
                                           Case{70, 72, 17, DType::bf16, 0},
                                           Case{65, 1096, 8, DType::bf16, 0.5},
                                           Case{600, 40, 9, DType::bf16, 0.25},
                                           Case{16, 64, 100, DType::bf16, 0},
                                           Case{5, 136, 64, DType::bf16, 0.1}));

// A factor is two numbers, so each term is two products; in expand() both operands are split, and three of the four products
// are formed.
TEST_P(CudaTileLora, AgreesWithTheFormula) {
  EXPECT_TRUE(reference_.reduce({2, kSplitError}).agrees_with(reduce(0, c_.rows).view()));
  EXPECT_TRUE(reference_.expand({3, 2 * kSplitError + kLowProduct}).agrees_with(expand(0, c_.rows).view()));
  for (const bool transposed : {false, true})
    EXPECT_TRUE(reference_.outer(transposed, {2, kSplitError}).agrees_with(outer(transposed).view()))
        << transposed;
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

// One launch has the bits of a launch for each term.
TEST_P(CudaTileLora, TermsAreAddedInOrder) {
  Inputs in(*this);
  AlignedOutput together(DType::f32, c_.rows, c_.columns, in.memory);
  AlignedOutput apart(DType::f32, c_.rows, c_.columns, in.memory);
  const cuda::LowRankTerm first{in.g.view(), in.factors(), LoraReference::kScale,
                                in.mask(c_.rate, 0, c_.rows)};
  const cuda::LowRankTerm second{in.g.view(), in.factors(), -0.3F, {}};
  const std::array terms{first, cuda::LowRankTerm{}, second};
  for (AlignedOutput* y : {&together, &apart}) in.memory.copy(reference_.y.view(), y->view());
  cuda::expand(terms, together.view(), *in.stream);
  for (const cuda::LowRankTerm& term : terms) cuda::expand(std::array{term}, apart.view(), *in.stream);
  EXPECT_TRUE(same_bits(together.on_host().view(), apart.on_host().view()));
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
  cuda::expand(std::array{cuda::LowRankTerm{u.view(), split, 1, {}}}, y.view(), *stream);
  cuda::outer(u.view(), x.view(), {}, 1, false, gradient.view(), arena, *stream);
}
#endif

}  // namespace
}  // namespace biqa
