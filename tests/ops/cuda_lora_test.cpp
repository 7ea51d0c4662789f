// SPDX-License-Identifier: Apache-2.0
// The adapter's kernels in the emulator, against sums in double with the mask of the CPU's counters.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "core/random.h"
#include "cuda_emulation/emulator.h"
#include "ops/cuda/lora.h"
#include "support/compare.h"
#include "support/cuda_arrays.h"
#include "support/device_matrix.h"
#include "support/lora_reference.h"

namespace biqa {
namespace {

using cuda::DropoutMask;
using cuda::Stream;
using testing::DeviceArray;
using testing::DeviceMatrix;
using testing::Layout;
using testing::LoraReference;
using testing::same_bits;

using Case = testing::LoraProductCase;

class CudaLora : public ::testing::TestWithParam<Case> {
 protected:
  void TearDown() override { emulation::set_order(emulation::Order::forward); }

  /// The mask of rows first … first + count.
  DropoutMask mask(const DeviceArray<std::uint64_t>& keys, std::int64_t first, std::int64_t count) const {
    return {c_.rate, LoraReference::kKey, LoraReference::kProjection, {keys.data() + first, count}};
  }

  /// The kernel on the given rows, which are those of the output unless it is a sum over the rows.
  Tensor reduce(Layout layout, std::int64_t first, std::int64_t count) const {
    const Stream stream;
    const DeviceArray<std::uint64_t> keys(reference_.keys, stream);
    const DeviceMatrix x(reference_.x.view(), layout, stream);
    const DeviceMatrix factors(reference_.a.view(), layout, stream);
    DeviceMatrix u(reference_.g.view(), layout, stream);
    cuda::reduce(x.view().row_range(first, count), factors.view(), mask(keys, first, count),
                 u.view().row_range(first, count), stream);
    return u.fetch();
  }
  Tensor expand(Layout layout, std::int64_t first, std::int64_t count) const {
    const Stream stream;
    const DeviceArray<std::uint64_t> keys(reference_.keys, stream);
    const DeviceMatrix u(reference_.g.view(), layout, stream);
    const DeviceMatrix factors(reference_.a.view(), layout, stream);
    DeviceMatrix y(reference_.y.view(), layout, stream);
    cuda::expand(u.view().row_range(first, count), factors.view(), LoraReference::kScale,
                 mask(keys, first, count), y.view().row_range(first, count), stream);
    return y.fetch();
  }
  Tensor outer(Layout layout, bool transposed) const {
    const Stream stream;
    const DeviceArray<std::uint64_t> keys(reference_.keys, stream);
    const DeviceMatrix g(reference_.g.view(), layout, stream);
    const DeviceMatrix x(reference_.x.view(), layout, stream);
    DeviceMatrix target(reference_.target(transposed).view(), layout, stream);
    cuda::outer(g.view(), x.view(), mask(keys, 0, c_.rows), LoraReference::kScale, transposed, target.view(),
                stream);
    return target.fetch();
  }
  const Case& c_ = GetParam();
  const LoraReference reference_{c_};
};
INSTANTIATE_TEST_SUITE_P(
    Cases, CudaLora,
    ::testing::Values(Case{1, 1, 1, DType::f32, 0}, Case{1, 33, 8, DType::bf16, 0},
                      Case{5, 64, 3, DType::f32, 0.1}, Case{9, 130, 17, DType::bf16, 0.5},
                      Case{65, 257, 9, DType::f32, 0.1}, Case{130, 36, 8, DType::bf16, 0},
                      Case{1100, 7, 2, DType::f32, 0.25}, Case{2, 3584, 16, DType::bf16, 0.1}));

TEST_P(CudaLora, AgreesWithTheFormula) {
  EXPECT_TRUE(reference_.reduce().agrees_with(reduce(Layout::spaced, 0, c_.rows).view()));
  EXPECT_TRUE(reference_.expand().agrees_with(expand(Layout::spaced, 0, c_.rows).view()));
  for (const bool transposed : {false, true})
    EXPECT_TRUE(reference_.outer(transposed).agrees_with(outer(Layout::spaced, transposed).view()))
        << transposed;
}

TEST_P(CudaLora, SameBitsInEveryOrderAndLayoutAndForARowAlone) {
  const Tensor u = reduce(Layout::dense, 0, c_.rows);
  const Tensor y = expand(Layout::dense, 0, c_.rows);
  const Tensor gradient = outer(Layout::dense, false);
  const Tensor transposed = outer(Layout::dense, true);
  EXPECT_TRUE(same_bits(reduce(Layout::spaced, 0, c_.rows).view(), u.view()));
  EXPECT_TRUE(same_bits(expand(Layout::spaced, 0, c_.rows).view(), y.view()));
  EXPECT_TRUE(same_bits(outer(Layout::spaced, false).view(), gradient.view()));
  for (const emulation::Order order : {emulation::Order::backward, emulation::Order::shuffled}) {
    emulation::set_order(order);
    EXPECT_TRUE(same_bits(reduce(Layout::dense, 0, c_.rows).view(), u.view()));
    EXPECT_TRUE(same_bits(expand(Layout::dense, 0, c_.rows).view(), y.view()));
    EXPECT_TRUE(same_bits(outer(Layout::dense, false).view(), gradient.view()));
    EXPECT_TRUE(same_bits(outer(Layout::dense, true).view(), transposed.view()));
  }
  emulation::set_order(emulation::Order::forward);
  for (const std::int64_t row : {std::int64_t{0}, c_.rows / 2, c_.rows - 1}) {
    EXPECT_TRUE(
        same_bits(reduce(Layout::dense, row, 1).view().row_range(row, 1), u.view().row_range(row, 1)));
    EXPECT_TRUE(
        same_bits(expand(Layout::dense, row, 1).view().row_range(row, 1), y.view().row_range(row, 1)));
  }
}

// A kernel that multiplies ones by the mask shows every decision of the device.
TEST(CudaLoraMask, HasExactlyTheCountersOfTheCpu) {
  const Stream stream;
  constexpr std::int64_t kRows = 8, kColumns = 515;
  std::vector<std::uint64_t> token_keys;
  for (std::uint64_t r = 0; r < kRows; ++r) token_keys.push_back(mix64(r));
  const DeviceArray<std::uint64_t> keys(token_keys, stream);
  Tensor ones(DType::f32, kRows, 1, "test");
  std::fill_n(ones.row<float>(0), kRows, 1.0F);
  Tensor one_factor(DType::f32, 1, kColumns, "test");
  std::fill_n(one_factor.row<float>(0), kColumns, 1.0F);
  // u < rate excludes a rate that is one of the draws, and includes the next number.
  const std::uint32_t draw = RandomStream{5, 1, token_keys[0]}.bits(2)[1];
  for (const double rate : {draw * 0x1.0p-32, (draw + 0.5) * 0x1.0p-32, 0.1, 0x1.0p-33, 1 - 0x1.0p-33}) {
    Tensor zeros(DType::f32, kRows, kColumns, "test");
    zeros.zero();
    DeviceMatrix result(zeros.view(), Layout::dense, stream);
    const DeviceMatrix u(ones.view(), Layout::dense, stream);
    const DeviceMatrix factors(one_factor.view(), Layout::dense, stream);
    cuda::expand(u.view(), factors.view(), 1.0F, {rate, 5, 1, keys.span()}, result.view(), stream);
    const Tensor mask = result.fetch();
    for (std::int64_t r = 0; r < kRows; ++r) {
      const RandomStream draws{5, 1, token_keys[static_cast<std::size_t>(r)]};
      for (std::int64_t c = 0; c < kColumns; ++c) {
        const std::uint32_t word =
            draws.bits(static_cast<std::uint64_t>(c / 4))[static_cast<std::size_t>(c % 4)];
        const float expected = word * 0x1.0p-32 < rate ? 0.0F : static_cast<float>(1 / (1 - rate));
        ASSERT_EQ(mask.row<float>(r)[c], expected) << r << " " << c << " " << rate;
      }
    }
  }
}

TEST(CudaLoraDeathTest, RefusesShapesThatDisagree) {
  const Stream stream;
  Tensor x(DType::f32, 2, 4, "x");
  Tensor factors(DType::f32, 3, 4, "factors");
  Tensor u(DType::f32, 2, 3, "u");
  Tensor target(DType::f32, 4, 3, "target");
  EXPECT_DEATH(cuda::reduce(x.view(), u.view(), {}, u.view(), stream), "factors 2x3");
  EXPECT_DEATH(cuda::outer(u.view(), x.view(), {}, 1, false, target.view(), stream), "target 4x3");
  EXPECT_DEATH(cuda::reduce(x.view(), factors.view(), {0.5, 0, 0, {}}, u.view(), stream),
               "0 keys for 2 rows");
}

TEST(CudaLoraRows, NothingIsNoWork) {
  const Stream stream;
  Tensor x(DType::f32, 0, 4, "x");
  Tensor factors(DType::f32, 3, 4, "factors");
  Tensor u(DType::f32, 0, 3, "u");
  cuda::reduce(x.view(), factors.view(), {}, u.view(), stream);
  cuda::expand(u.view(), factors.view(), 1, {}, x.view(), stream);
  cuda::outer(u.view(), x.view(), {}, 1, false, factors.view(), stream);
}

}  // namespace
}  // namespace biqa
