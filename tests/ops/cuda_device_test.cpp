// SPDX-License-Identifier: Apache-2.0
// cuBLASLt on a real device, with bf16 outputs too; built with CUDA only, skipped with its reason where there is no device. The
// operations run there as on every backend (support/operations/cuda_operations.cpp).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>

#include "core/error.h"
#include "gpu/measures.h"
#include "ops/cuda/device.h"
#include "ops/cuda/matmul_backend.h"
#include "support/cuda_runs.h"
#include "support/op_cases.h"
#include "support/operation_runs.h"
#include "tensor/cuda/memory.h"

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

/// The numbers of rows that use another algorithm than the anchor.
std::string other_buckets(const cuda::ProductClass& chosen) {
  std::string text;
  for (std::size_t bucket = 0; bucket < cuda::kRowBuckets.size(); ++bucket) {
    if (chosen.choices[bucket] != chosen.anchor) text += fmt::format(" {}", cuda::kRowBuckets[bucket]);
  }
  return text.empty() ? " none" : text;
}

// tests/gpu.sh prints the lines that begin with "product".
TEST(DeviceProducts, ClassesOfAlgorithms) {
  if (const std::string reason = missing_device(); !reason.empty()) GTEST_SKIP() << reason;
  const auto stream = std::make_shared<cuda::Stream>();
  cuda::CudaMemory memory(stream);
  const auto backend = cuda::make_matmul_backend(*stream);
  for (const gpu::ModelProduct& model : gpu::model_products(gpu::shape_of("7B"))) {
    for (const bool forward : {true, false}) {
      if (!forward && !model.backward) continue;
      const cuda::Product product = gpu::product_of(model, forward);
      backend->classes().classify(product, memory);
      const cuda::ClassReport report = backend->classes().report(product, memory);
      std::printf(
          "product %s%s %lldx%lld: %d of %d algorithms in the class; another than the anchor up to rows:%s\n",
          model.name.c_str(), forward ? "" : " backward", static_cast<long long>(product.inner),
          static_cast<long long>(product.outer), report.members, report.proposed,
          other_buckets(*backend->classes().find(product)).c_str());
      std::fflush(stdout);
      EXPECT_GE(report.proposed, report.members);
    }
  }
}

TEST(CudaDevice, WithoutOneTheErrorSaysWhatToDo) {
  const std::string reason = missing_device();
  if (reason.empty()) GTEST_SKIP() << "this machine has a device";
  EXPECT_NE(reason.find("device cuda: "), std::string::npos) << reason;
  EXPECT_NE(reason.find("use device cpu"), std::string::npos) << reason;
}

}  // namespace
}  // namespace biqa
