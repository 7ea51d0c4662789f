// SPDX-License-Identifier: Apache-2.0
// The wrapper of tensor-core instructions in the emulator: a product against double sums, and what is used wrongly.
#include "ops/cuda/warp.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/bf16.h"
#include "cuda_emulation/emulator.h"
#include "ops/cuda/launch.h"
#include "support/device_values.h"

namespace biqa::cuda {
namespace {

using emulation::Order;
using testing::DeviceValues;

constexpr int kRows = 16, kInner = 64, kColumns = 8;

enum class Planted { nothing, other_register, wait_too_early, no_barrier, no_wait, lane_missing, misaligned };

/// y [16, 8] f32 = a [16, 64] bf16 · b [64, 8] bf16 by one warp; 16 columns of a and rows of b arrive while those before are
/// multiplied.
__global__ void product_kernel(const Bf16* a, const Bf16* b, float* y, Planted planted) {
  constexpr int kStep = 16, kStepElements = (kRows + kColumns) * kStep, kStages = 2;
  auto* shared = dynamic_shared<Bf16>();
  const int lane = static_cast<int>(threadIdx.x);
  const auto fetch = [&](int step) {
    Bf16* to = shared + step % kStages * kStepElements;
    copy_async(to + lane * 8, a + lane / 2 * kInner + step * kStep + lane % 2 * 8, true);
    if (lane < 16) copy_async(to + kRows * kStep + lane * 8, b + (step * kStep + lane) * kColumns, true);
    copy_commit();
  };
  fetch(0);
  float sums[4] = {};
  for (int step = 0; step < kInner / kStep; ++step) {
    if (step + 1 < kInner / kStep)
      fetch(step + 1);
    else
      copy_commit();
    if (planted == Planted::wait_too_early)
      copy_wait<2>();
    else if (planted != Planted::no_wait)
      copy_wait<1>();
    if (planted != Planted::no_barrier) __syncwarp();
    const Bf16* from = shared + step % kStages * kStepElements;
    std::uint32_t left[4];
    std::uint32_t right[4];
    const Bf16* row = from + lane % 16 * kStep + lane / 16 * 8;
    ldmatrix(left, planted == Planted::misaligned ? row + 1 : row);
    ldmatrix_transposed(right, from + kRows * kStep + lane % 16 * kColumns);
    if (planted == Planted::other_register) {
      const std::uint32_t second = left[1];
      left[1] = left[2];
      left[2] = second;
    }
    if (planted != Planted::lane_missing || lane != 9) mma(sums, left, right[0], right[1]);
    __syncwarp();
  }
  copy_wait<0>();
  for (int i = 0; i < 4; ++i) y[(lane / 4 + i / 2 * 8) * kColumns + lane % 4 * 2 + i % 2] = sums[i];
}

struct Product {
  std::vector<Bf16> a, b;
  std::vector<double> sums, magnitudes;
};

Product make_product() {
  Product p;
  for (int i = 0; i < kRows * kInner; ++i)
    p.a.push_back(to_bf16(std::sin(0.37F * static_cast<float>(i * i % 1013))));
  for (int i = 0; i < kInner * kColumns; ++i) p.b.push_back(to_bf16(std::cos(0.73F * static_cast<float>(i))));
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      double sum = 0;
      double magnitude = 0;
      for (int k = 0; k < kInner; ++k) {
        const double term =
            double{to_float(p.a[static_cast<std::size_t>(r) * kInner + static_cast<std::size_t>(k)])} *
            double{to_float(p.b[static_cast<std::size_t>(k) * kColumns + static_cast<std::size_t>(c)])};
        sum += term;
        magnitude += std::fabs(term);
      }
      p.sums.push_back(sum);
      p.magnitudes.push_back(magnitude);
    }
  }
  return p;
}

/// The elements that are further from the sum than its roundings allow: one of 2^-24 a term, products being exact.
int wrong_elements(Planted planted) {
  const Product p = make_product();
  const Stream stream;
  const DeviceValues<Bf16> a(p.a);
  const DeviceValues<Bf16> b(p.b);
  const DeviceValues<float> y(kRows * kColumns, "product");
  launch(product_kernel, 1, 32, 2 * (kRows + kColumns) * 16 * sizeof(Bf16), stream, a.data(), b.data(),
         y.data(), planted);
  const std::vector<float> result = y.on_host();
  int wrong = 0;
  for (std::size_t i = 0; i < result.size(); ++i) {
    const double bound = kInner * 0x1p-24 * p.magnitudes[i];
    if (!(std::fabs(double{result[i]} - p.sums[i]) <= bound)) ++wrong;
  }
  return wrong;
}

class CudaWarp : public ::testing::TestWithParam<Order> {
 protected:
  void SetUp() override { emulation::set_order(GetParam()); }
  void TearDown() override { emulation::set_order(Order::forward); }
};

TEST_P(CudaWarp, AProductAgreesWithSumsInDouble) {
  EXPECT_EQ(wrong_elements(Planted::nothing), 0);
}

TEST_P(CudaWarp, AValueInTheWrongRegisterGivesWrongNumbers) {
  EXPECT_GT(wrong_elements(Planted::other_register), 100);
}

TEST_P(CudaWarp, ACopyReadBeforeItsWait) {
  for (const Planted planted : {Planted::wait_too_early, Planted::no_wait}) {
    if (emulation::checks_accesses())
      EXPECT_DEATH(wrong_elements(planted),
                   "reads 16 bytes at shared memory \\+ [0-9]+ before the copy_async to it has "
                   "arrived; kernel .*product_kernel");
    else
      EXPECT_EQ(wrong_elements(planted), kRows * kColumns) << "NaN";
  }
}

TEST(CudaWarpDeathTest, ACopyThatOthersReadWithoutABarrier) {
  if (!emulation::checks_accesses()) GTEST_SKIP() << "this build does not look at accesses";
  EXPECT_DEATH(wrong_elements(Planted::no_barrier),
               "reads 16 bytes at shared memory \\+ .*, which thread "
               "\\([0-9]+,0,0\\) wrote too, without a barrier between");
}

/// Every block writes its number, and the last one sums all.
__global__ void last_block_kernel(float* numbers, unsigned* counter, float* sum) {
  if (threadIdx.x == 3) numbers[blockIdx.x] = static_cast<float>(blockIdx.x + 1);
  if (!count_arrival(counter, gridDim.x)) return;
  float own = threadIdx.x < gridDim.x ? numbers[threadIdx.x] : 0.0F;
  for (int distance = 16; distance > 0; distance /= 2) own += __shfl_xor_sync(kWholeWarp, own, distance);
  if (threadIdx.x == 0) *sum = own;
}

TEST_P(CudaWarp, TheLastBlockSeesAllOthersAgainAndAgain) {
  const Stream stream;
  const DeviceValues<float> numbers(20, "numbers");
  const DeviceValues<unsigned> counter(std::vector<unsigned>{0});
  for (int time = 0; time < 2; ++time) {  // the counter starts over by itself
    const DeviceValues<float> sum(std::vector<float>{-1});
    launch(last_block_kernel, 20, 32, 0, stream, numbers.data(), counter.data(), sum.data());
    EXPECT_EQ(sum.on_host(), std::vector<float>{210});
  }
  EXPECT_EQ(counter.on_host(), std::vector<unsigned>{0});
}

INSTANTIATE_TEST_SUITE_P(Orders, CudaWarp,
                         ::testing::Values(Order::forward, Order::backward, Order::shuffled));

TEST(CudaWarpDeathTest, WhatALaneDoesWrongly) {
  EXPECT_DEATH(wrong_elements(Planted::lane_missing),
               "thread 0 waits at mma .* that lane 9 never reaches: it waits at "
               "__syncwarp");
  EXPECT_DEATH(
      wrong_elements(Planted::misaligned),
      "ldmatrix from an address that is not aligned to 16 bytes; kernel .*product_kernel, block \\(0,0,0\\), "
      "thread \\(0,0,0\\)");
}

__global__ void wrong_use_kernel(const Bf16* from, unsigned* counter, int fault) {
  auto* shared = dynamic_shared<Bf16>();
  if (fault == 0) copy_async(shared, from + 1, true);
  if (fault == 1) copy_async(shared + 1, from, true);
  if (fault == 2) copy_async(shared + 16, from, true);
  if (fault == 3) copy_async(shared, from, true);
  if (fault == 4 && threadIdx.x == 7) return;
  float sums[4] = {};
  const std::uint32_t left[4] = {};
  if (fault == 4) mma(sums, left, 0, 0);
  if (fault == 5) count_arrival(counter, 1);
}

TEST(CudaWarpDeathTest, CopiesAndArrivals) {
  const Stream stream;
  const DeviceValues<Bf16> values(std::vector<Bf16>(64));
  const DeviceValues<unsigned> counter(std::vector<unsigned>{5});
  const auto run = [&](int fault) {
    launch(wrong_use_kernel, 1, 32, 32, stream, values.data(), counter.data(), fault);
  };
  EXPECT_DEATH(run(0), "copy_async from an address that is not aligned to 16 bytes");
  EXPECT_DEATH(run(1), "copy_async to an address that is not aligned to 16 bytes");
  EXPECT_DEATH(run(2), "copy_async to an address outside the launch's shared memory");
  EXPECT_DEATH(
      run(3),
      "a thread returns before its copy_async has arrived: copy_wait is missing; .*thread \\(0,0,0\\)");
  EXPECT_DEATH(run(4), "mma needs all 32 lanes, but lane 7 has returned");
  EXPECT_DEATH(run(5), "count_arrival: the counter is 5 before one of 1 arrivals; it must start at 0");
}

TEST(CudaWarpFunctions, OfOneThread) {
  EXPECT_EQ(pack_bf16(1.0F, -2.0F), 0xc0003f80U);
  EXPECT_EQ(exp2_fast(3.0F), 8.0F);
  EXPECT_EQ(exp2_fast(-INFINITY), 0.0F);
  EXPECT_EQ(exp2_fast(-130.0F), 0.0F) << "below the smallest normal number";
  EXPECT_EQ(fmadd(1.0F + 0x1p-12F, 1.0F + 0x1p-12F, -1.0F - 0x1p-11F), 0x1p-24F) << "one rounding";
}

}  // namespace
}  // namespace biqa::cuda
