// SPDX-License-Identifier: Apache-2.0
// The emulator itself must notice what a kernel does wrong, and the owners of CUDA resources what the runtime refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/open_device.h"
#include "cuda_emulation/emulator.h"
#include "ops/cuda/device.h"
#include "ops/cuda/launch.h"
#include "support/device_values.h"
#include "tensor/cuda/memory.h"

namespace biqa::cuda {
namespace {

using biqa::testing::DeviceValues;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no Error";
}

__global__ void reverse_kernel(const float* in, float* out, bool with_barrier) {
  auto* values = dynamic_shared<float>();
  values[threadIdx.x] = in[threadIdx.x];
  if (with_barrier) __syncthreads();
  out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

std::vector<float> reversed(bool with_barrier) {
  std::vector<float> in(70);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  const DeviceValues<float> device_in(in);
  const DeviceValues<float> out(in.size(), "reversed");
  launch(reverse_kernel, 1, static_cast<unsigned>(in.size()), in.size() * sizeof(float), Stream(),
         device_in.data(), out.data(), with_barrier);
  return out.on_host();
}

TEST(CudaEmulator, ThreadsMeetAtTheBarrier) {
  const std::vector<float> out = reversed(true);
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], static_cast<float>(out.size() - 1 - i));
}

// What the other tests rely on: they would see that a barrier is missing.
TEST(CudaEmulatorDeathTest, AMissingBarrierShows) {
  if (emulation::checks_accesses())
    EXPECT_DEATH(reversed(false),
                 "reads 4 bytes at shared memory \\+ 276, which nobody has written; kernel "
                 ".*reverse_kernel, block \\(0,0,0\\), thread \\(0,0,0\\)");
  else
    EXPECT_NE(reversed(false), reversed(true));
}

__global__ void shuffle_kernel(int* out) {
  int sum = static_cast<int>(threadIdx.x);
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, distance);
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

TEST(CudaEmulator, ShufflesStayInTheirWarp) {
  for (const auto order :
       {emulation::Order::forward, emulation::Order::backward, emulation::Order::shuffled}) {
    emulation::set_order(order);
    const DeviceValues<int> sums(128, "sums");
    launch(shuffle_kernel, 2, 64, 0, Stream(), sums.data());
    const std::vector<int> out = sums.on_host();
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], i % 64 < 32 ? 496 : 496 + 32 * 32) << i;
  }
  emulation::set_order(emulation::Order::forward);
}

__global__ void index_kernel(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += static_cast<int>(thread + 1);
}

TEST(CudaEmulator, EveryThreadOfEveryBlockRunsOnce) {
  const DeviceValues<int> numbers(std::vector<int>(2 * 3 * 2 * 4 * 3 * 2));
  launch(index_kernel, dim3(2, 3, 2), dim3(4, 3, 2), 0, Stream(), numbers.data());
  const std::vector<int> out = numbers.on_host();
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], static_cast<int>(i % 24 + 1));
}

TEST(CudaEmulator, RefusesAnImpossibleLaunch) {
  const DeviceValues<int> out(1, "out");
  EXPECT_THAT(
      message_of([&] { launch(shuffle_kernel, 1, 1056, 0, Stream(), out.data()); }),
      AllOf(HasSubstr("cudaLaunchKernelEx"), HasSubstr("launch.h:"), HasSubstr("cudaErrorInvalidValue")));
  EXPECT_THAT(message_of([&] { launch(shuffle_kernel, 1, 32, 300 * 1024, Stream(), out.data()); }),
              HasSubstr("cudaFuncSetAttribute"));
}

TEST(CudaRuntime, OutOfMemoryNamesTheLabelAndWhatToLower) {
  emulation::set_memory_limit(std::size_t{3} << 30);
  const std::string expected =
      "cannot allocate 4.00 GiB of the GPU's memory for key-value cache: 3.00 GiB of its 3.00 GiB are free; "
      "end other programs on it (nvidia-smi), or lower the memory use: in a training, "
      "objective.micro_batch_tokens, rollout.kv_memory or rollout.images_per_step; in other programs, "
      "--batch, --micro-batch-tokens or the images' max_pixels";
  EXPECT_EQ(message_of([] { const DeviceBuffer buffer(std::size_t{4} << 30, "key-value cache"); }), expected);
  CudaMemory memory(std::make_shared<const Stream>());
  EXPECT_EQ(message_of([&] { memory.allocate(DType::f32, 1 << 10, 1 << 20, "key-value cache"); }), expected);
  emulation::set_memory_limit(std::size_t{16} << 30);
  emulation::fail_next(emulation::Call::allocation, cudaErrorMemoryAllocation);
  EXPECT_THAT(message_of([&] { memory.allocate(DType::f32, 1, 1, "one number"); }),
              HasSubstr("cannot allocate 4 B of the GPU's memory for one number: 16.00 GiB"));
}

TEST(CudaRuntime, AFailedGpuIsNamedAsSuch) {
  const DeviceValues<int> out(32, "out");
  const auto launched = [&] { launch(shuffle_kernel, 1, 32, 0, Stream(), out.data()); };
  for (const cudaError_t status : {cudaErrorECCUncorrectable, cudaErrorNvlinkUncorrectable,
                                   cudaErrorHardwareStackError, cudaErrorUnknown}) {
    emulation::fail_next(emulation::Call::wait, status);
    EXPECT_THAT(message_of([] { Stream().synchronise(); }),
                AllOf(HasSubstr(cudaGetErrorName(status)), HasSubstr("cudaStreamSynchronize"),
                      HasSubstr("the GPU has failed or was lost"), HasSubstr("nvidia-smi"), HasSubstr("Xid"),
                      HasSubstr("last checkpoint")));
  }
  emulation::fail_next(emulation::Call::launch, cudaErrorDevicesUnavailable);
  EXPECT_THAT(message_of(launched),
              AllOf(HasSubstr("cudaErrorDevicesUnavailable"),
                    HasSubstr("another process uses it exclusively"), HasSubstr("nvidia-smi")));
  for (const cudaError_t status : {cudaErrorIllegalAddress, cudaErrorLaunchFailure}) {
    emulation::fail_next(emulation::Call::launch, status);
    EXPECT_THAT(message_of(launched), AllOf(HasSubstr(cudaGetErrorName(status)),
                                            HasSubstr("this or an earlier GPU kernel has failed"),
                                            HasSubstr("BIQA_CUDA_SYNC=1"), HasSubstr("last checkpoint")));
  }
  launched();  // nothing is left over
}

TEST(CudaRuntime, AProgramForOtherArchitectures) {
  EXPECT_EQ(missing_architecture("80 86 89 90", 80), "");
  EXPECT_EQ(missing_architecture("80", 120), "") << "the driver translates code for a plain number";
  EXPECT_EQ(missing_architecture("", 90), "");
  EXPECT_EQ(missing_architecture("90a", 90), "");
  EXPECT_EQ(missing_architecture("100f", 103), "");
  EXPECT_THAT(missing_architecture("90a", 100), HasSubstr("code only for sm_90a, but the GPU is sm_100"));
  EXPECT_THAT(missing_architecture("100f", 120), HasSubstr("BIQA_CUDA_ARCHITECTURES=120"));
  const std::string expected =
      "this program has code only for sm_90, sm_100, but the GPU is sm_80: build it with "
      "BIQA_CUDA_ARCHITECTURES=80 launch/build.sh cuda";
  EXPECT_EQ(missing_architecture("90 100", 80), expected);

  const DeviceValues<int> out(32, "out");
  emulation::set_device_capability(80);
  built_architectures = "90 100";
  EXPECT_EQ(message_of([] { select_device(0); }), "device cuda: GPU 0 cannot run this program: " + expected);
  emulation::fail_next(emulation::Call::launch, cudaErrorNoKernelImageForDevice);
  EXPECT_THAT(message_of([&] { launch(shuffle_kernel, 1, 32, 0, Stream(), out.data()); }),
              AllOf(HasSubstr("cudaErrorNoKernelImageForDevice"), HasSubstr(expected)));
  built_architectures = "80";
  select_device(0);
  emulation::fail_next(emulation::Call::launch, cudaErrorUnsupportedPtxVersion);
  EXPECT_THAT(message_of([&] { launch(shuffle_kernel, 1, 32, 0, Stream(), out.data()); }),
              HasSubstr("install a newer driver"));
  built_architectures = {};
  emulation::set_device_capability(90);
  select_device(0);
}

TEST(CudaRuntime, BuffersMoveAndCopyBack) {
  const Stream stream;
  Tensor host(DType::i64, 2, 3, "host");
  for (std::size_t i = 0; i < 6; ++i) host.span<std::int64_t>()[i] = static_cast<std::int64_t>(i) - 3;
  DeviceTensor device(DType::i64, 2, 3, "device");
  copy_to_device(host.view(), device.view(), stream);
  const DeviceTensor moved = std::move(device);
  Tensor back(DType::i64, 2, 3, "back");
  copy_to_host(moved.view(), back.view(), stream);
  stream.synchronise();
  EXPECT_TRUE(std::ranges::equal(host.span<std::int64_t>(), back.span<std::int64_t>()));
}

TEST(CudaRuntime, ASelectedDeviceIsOpen) {
  device_is_open = false;
  emulation::set_device_count(0);
  EXPECT_THROW(select_device(0), Error);
  EXPECT_FALSE(device_is_open);
  emulation::set_device_count(1);
  select_device(0);
  EXPECT_TRUE(device_is_open);
}

TEST(CudaRuntime, ADeviceThatIsNotThere) {
  select_device(0);
  emulation::set_device_count(0);
  EXPECT_EQ(message_of([] { select_device(0); }),
            "device cuda: this machine has no CUDA device; use device cpu");
  emulation::set_device_count(-1);
  EXPECT_THAT(message_of([] { select_device(0); }),
              AllOf(HasSubstr("cudaErrorNoDevice"), HasSubstr("use device cpu")));
  emulation::set_device_count(emulation::kOldDriver);
  EXPECT_THAT(
      message_of([] { select_device(0); }),
      HasSubstr("supports CUDA 12.2, and this program was built with CUDA 13.0; install a newer driver"));
  emulation::set_device_count(1);
}

TEST(CudaRuntime, ADeviceThatIsTooOld) {
  emulation::set_device_capability(75);
  EXPECT_THAT(message_of([] { select_device(0); }),
              HasSubstr("GPU 0 has compute capability 7.5 (sm_75), and biqa needs 8.0"));
  emulation::set_device_capability(90);
  select_device(0);
}

// This test is part of builds without CUDA.
TEST(CudaDevice, ABuildWithoutCudaSaysSo) {
  EXPECT_FALSE(built_with_cuda());
  const std::string expected =
      "device cuda: this build has no CUDA backend; build it with `launch/build.sh cuda` or use device cpu";
  EXPECT_EQ(message_of(require_cuda_device), expected);
  EXPECT_EQ(message_of([] { make_cuda_ops(DType::f32, 0); }), expected);
}

}  // namespace
}  // namespace biqa::cuda
