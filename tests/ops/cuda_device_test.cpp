// SPDX-License-Identifier: Apache-2.0
// cuBLASLt on a real device, with bf16 outputs too; built with CUDA only, skipped with its reason where there is no device. The
// operations run there as on every backend (support/operations/cuda_operations.cpp).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>

#include "core/error.h"
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

/// A product of Qwen2.5-VL 7B.
struct ModelProduct {
  const char* name;
  std::int64_t inner, outer;
  bool bias, backward;
  DType result, input_gradient;  // types of the results, forward and backward
};
constexpr DType kF32 = DType::f32, kBf16 = DType::bf16;
constexpr ModelProduct kModelProducts[] = {
    {"query, key, value", 3584, 4608, false, true, kBf16, kF32},
    {"attention output", 3584, 3584, false, true, kF32, kF32},
    {"gate and up", 3584, 37888, false, true, kBf16, kF32},
    {"down", 18944, 3584, false, true, kF32, kBf16},
    {"head", 3584, 152064, false, true, kF32, kF32},
    {"patches", 1176, 1280, false, false, kF32, kF32},
    {"vision query, key, value", 1280, 3840, false, false, kBf16, kF32},
    {"vision attention output", 1280, 1280, true, false, kF32, kF32},
    {"vision gate and up", 1280, 6912, false, false, kBf16, kF32},
    {"vision down", 3456, 1280, true, false, kF32, kF32},
    {"merger", 5120, 5120, true, false, kF32, kF32},
    {"merger output", 5120, 3584, true, false, kF32, kF32}};

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
  for (const ModelProduct& model : kModelProducts) {
    for (const bool forward : {true, false}) {
      if (!forward && !model.backward) continue;
      const cuda::Product product = cuda::dense_product(
          DType::bf16, forward ? model.result : model.input_gradient, forward ? model.inner : model.outer,
          forward ? model.outer : model.inner, forward, forward && model.bias);
      backend->classes().classify(product, memory);
      const cuda::ClassReport report = backend->classes().report(product, memory);
      std::printf(
          "product %s%s %lldx%lld: %d of %d algorithms in the class; another than the anchor up to rows:%s\n",
          model.name, forward ? "" : " backward", static_cast<long long>(product.inner),
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
