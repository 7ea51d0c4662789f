// SPDX-License-Identifier: Apache-2.0
// The product's checks and memory traffic, with a host product in cuBLASLt's place.
#include <gtest/gtest.h>

#include <array>

#include "core/error.h"
#include "cuda_emulation/host_attention.h"
#include "cuda_emulation/host_matmul.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/matmul_backend.h"
#include "support/compare.h"
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

// One row has another sum than in a larger batch, by less than a result in bf16 shows.
TEST(CudaRowCheck, SeesBelowTheRoundingOfResults) {
  cuda::CudaOps ops(DType::bf16);
  const auto weight = ops.pack(testing::random_tensor(DType::bf16, 64, 48, 1, 1).view(), {}, false);
  const std::array<std::int64_t, 1> counts{1};
  for (const DType result : {DType::f32, DType::bf16}) {
    cuda::as_cuda(*weight).result = result;
    ops.check_rows(*weight, counts);
    emulation::altered_rows = 1;
    emulation::altered_share = 0x1.0p-20F;
    emulation::altered_value = 0;
    EXPECT_THROW(ops.check_rows(*weight, counts), Error) << name_of(result);
    emulation::altered_rows = 0;
    emulation::altered_share = 0;
    emulation::altered_value = 1;
  }
}

TEST(CudaDeviceType, NamesTheLibraryOfAttentionThatIsUsed) {
  emulation::attention_version = "attention by loops 3";
  const cuda::CudaOps own(DType::bf16, 0, VisionAttentionBy::own);
  const cuda::CudaOps library(DType::bf16, 0, VisionAttentionBy::cudnn);
  EXPECT_EQ(library.device_type(), own.device_type() + ", attention by loops 3");
  EXPECT_EQ(library.key(), own.key()) << "choices of products do not depend on it";
  emulation::attention_version.clear();
}

}  // namespace
}  // namespace biqa
