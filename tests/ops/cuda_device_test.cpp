// SPDX-License-Identifier: Apache-2.0
// cuBLASLt on a real device, with bf16 outputs too; built with CUDA only, skipped with its reason where there is no device. The
// operations run there as on every backend (support/operations/cuda_operations.cpp).
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "core/error.h"
#include "ops/cuda/device.h"
#include "ops/cuda/matmul_backend.h"
#include "support/cuda_runs.h"
#include "support/op_cases.h"
#include "support/operation_runs.h"

namespace biqa {
namespace {

/// Why there is no device, or nothing.
std::string missing_device() {
  try {
    require_cuda_device();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class DeviceLinear : public ::testing::TestWithParam<testing::LinearCase> {};

TEST_P(DeviceLinear, AgreesWithFormulaAndCpu) {
  if (const std::string reason = missing_device(); !reason.empty()) GTEST_SKIP() << reason;
  const cuda::Stream stream;
  const std::unique_ptr<cuda::MatmulBackend> backend = cuda::make_matmul_backend(stream);
  const auto run = [&](ConstView x, ConstView weight, ConstView bias, View y) {
    testing::run_cuda_linear(*backend, stream, x, weight, bias, y);
  };
  testing::check_linear(GetParam(), run, testing::linear_of("cpu"));
}

INSTANTIATE_TEST_SUITE_P(Cases, DeviceLinear, ::testing::ValuesIn(testing::linear_cases()));

TEST(CudaDevice, WithoutOneTheErrorSaysWhatToDo) {
  const std::string reason = missing_device();
  if (reason.empty()) GTEST_SKIP() << "this machine has a device";
  EXPECT_NE(reason.find("device cuda: "), std::string::npos) << reason;
  EXPECT_NE(reason.find("use device cpu"), std::string::npos) << reason;
}

}  // namespace
}  // namespace biqa
