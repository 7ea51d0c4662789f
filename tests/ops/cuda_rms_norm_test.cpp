// SPDX-License-Identifier: Apache-2.0
// The RMSNorm kernel, from the source that nvcc compiles, in the emulator.
#include <gtest/gtest.h>

#include "core/error.h"
#include "cuda_emulation/emulator.h"
#include "support/cuda_runs.h"
#include "support/op_cases.h"
#include "support/operation_runs.h"

namespace biqa {
namespace {

class CudaRmsNorm : public ::testing::TestWithParam<testing::RmsNormCase> {
 protected:
  void TearDown() override { emulation::set_order(emulation::Order::forward); }
};

TEST_P(CudaRmsNorm, AgreesWithFormulaAndCpu) {
  testing::check_rms_norm(GetParam(), testing::run_cuda_rms_norm, testing::rms_norm_of("cpu"));
}

// A result that depends on which thread runs first would be a race.
TEST_P(CudaRmsNorm, SameBitsInEveryOrderOfThreads) {
  const testing::RmsNormCase& c = GetParam();
  Tensor x(DType::f32, c.rows, c.columns, "x");
  for (std::int64_t i = 0; i < x.size(); ++i)
    x.span<float>()[static_cast<std::size_t>(i)] = 0.1F * static_cast<float>(i % 97) - 4;
  Tensor weight(DType::f32, 1, c.columns, "weight");
  for (float& w : weight.span<float>()) w = 1.5F;
  Tensor first(c.output, c.rows, c.columns, "y");
  testing::run_cuda_rms_norm(x.view(), weight.view(), c.epsilon, first.view());
  for (const emulation::Order order : {emulation::Order::backward, emulation::Order::shuffled}) {
    emulation::set_order(order);
    Tensor again(c.output, c.rows, c.columns, "y");
    testing::run_cuda_rms_norm(x.view(), weight.view(), c.epsilon, again.view());
    EXPECT_EQ(std::memcmp(first.view().data(), again.view().data(), first.bytes()), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaRmsNorm, ::testing::ValuesIn(testing::rms_norm_cases()));

TEST(CudaRmsNormRow, DoesNotDependOnOtherRows) {
  constexpr std::int64_t kColumns = 100;
  Tensor x(DType::f32, 5, kColumns, "x");
  for (std::int64_t i = 0; i < x.size(); ++i)
    x.span<float>()[static_cast<std::size_t>(i)] = 0.01F * static_cast<float>(i * i % 1001);
  Tensor weight(DType::f32, 1, kColumns, "weight");
  for (float& w : weight.span<float>()) w = 0.7F;
  Tensor all(DType::f32, 5, kColumns, "y");
  testing::run_cuda_rms_norm(x.view(), weight.view(), 1e-6F, all.view());
  Tensor one(DType::f32, 1, kColumns, "y");
  testing::run_cuda_rms_norm(x.view().row_range(3, 1), weight.view(), 1e-6F, one.view());
  EXPECT_EQ(std::memcmp(all.row<float>(3), one.view().data(), one.bytes()), 0);
}

TEST(CudaRmsNormRow, NoRowsIsNoWork) {
  Tensor weight(DType::f32, 1, 4, "weight");
  Tensor none(DType::f32, 0, 4, "none");
  const cuda::Stream stream;
  cuda::rms_norm(none.view(), weight.view(), 1e-6F, none.view(), stream);
}

TEST(CudaRmsNormDeathTest, RefusesShapesThatDisagree) {
  Tensor x(DType::f32, 2, 4, "x");
  Tensor weight(DType::f32, 1, 3, "weight");
  Tensor y(DType::f32, 2, 4, "y");
  const cuda::Stream stream;
  EXPECT_DEATH(cuda::rms_norm(x.view(), weight.view(), 1e-6F, y.view(), stream), "weight 3");
}

}  // namespace
}  // namespace biqa
