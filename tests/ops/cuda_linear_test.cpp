// SPDX-License-Identifier: Apache-2.0
// The product's checks and memory traffic, with a host product in cuBLASLt's place.
#include <gtest/gtest.h>

#include "ops/cuda/matmul_backend.h"
#include "support/cuda_runs.h"
#include "support/op_cases.h"
#include "support/operation_runs.h"

namespace biqa {
namespace {

class CudaLinear : public ::testing::TestWithParam<testing::LinearCase> {};

TEST_P(CudaLinear, AgreesWithFormulaAndCpu) {
  const cuda::Stream stream;
  const auto backend = cuda::make_matmul_backend(stream);
  const auto run = [&](ConstView x, ConstView weight, ConstView bias, View y) {
    testing::run_cuda_linear(*backend, stream, x, weight, bias, y);
  };
  testing::check_linear(GetParam(), run, testing::linear_of("cpu"));
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaLinear, ::testing::ValuesIn(testing::linear_cases()));

TEST(CudaLinearDeathTest, RefusesWhatTheBackendCannotKnow) {
  const cuda::Stream stream;
  const auto products = cuda::make_matmul_backend(stream);
  cuda::MatmulBackend& backend = *products;
  Tensor x(DType::f32, 2, 4, "x");
  Tensor weight(DType::f32, 3, 4, "weight");
  Tensor y(DType::f32, 2, 3, "y");
  Tensor bf16_y(DType::bf16, 2, 3, "y");
  Tensor short_weight(DType::f32, 3, 5, "weight");
  Tensor bf16_weight(DType::bf16, 3, 4, "weight");
  Tensor bias(DType::f32, 1, 4, "bias");
  EXPECT_DEATH(backend.linear(x.view(), short_weight.view(), {}, y.view()), "weight 3x5");
  EXPECT_DEATH(backend.linear(x.view(), bf16_weight.view(), {}, y.view()), "bf16 weight for f32");
  EXPECT_DEATH(backend.linear(x.view(), weight.view(), {}, bf16_y.view()), "bf16");
  EXPECT_DEATH(backend.linear(x.view(), weight.view(), bias.view(), y.view()), "1x4");
}

}  // namespace
}  // namespace biqa
