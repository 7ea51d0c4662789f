// SPDX-License-Identifier: Apache-2.0
// What the emulator says about device memory that is used wrongly, and that right use works.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cuda_emulation/device_memory.h"
#include "cuda_emulation/emulator.h"
#include "ops/cuda/launch.h"

namespace biqa::cuda {
namespace {

__global__ void add_one_kernel(float* values) {
  values[threadIdx.x] += 1.0F;
}

/// The first floats of device memory, copied back.
std::vector<float> on_host(const void* device, std::size_t count, const Stream& stream) {
  std::vector<float> host(count);
  BIQA_CUDA_CHECK(
      cudaMemcpyAsync(host.data(), device, count * sizeof(float), cudaMemcpyDeviceToHost, stream.get()));
  stream.synchronise();
  return host;
}

TEST(CudaEmulatedMemory, CopiesKernelsAndSetsWork) {
  const Stream stream;
  const DeviceBuffer buffer(40 * sizeof(float), "values");
  EXPECT_TRUE(std::isnan(on_host(buffer.data(), 40, stream)[39])) << "memory starts as NaN";
  BIQA_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), stream.get()));
  launch(add_one_kernel, 1, 40, 0, stream, static_cast<float*>(buffer.data()));
  EXPECT_EQ(on_host(buffer.data(), 40, stream), std::vector<float>(40, 1.0F));
}

TEST(CudaEmulatedMemory, RowsOfAMatrix) {
  const Stream stream;
  const std::vector<float> rows = {1, 2, 3, 4, 5, 6};
  const DeviceBuffer buffer(10 * sizeof(float), "rows of five");
  BIQA_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), stream.get()));
  BIQA_CUDA_CHECK(cudaMemcpy2DAsync(buffer.data(), 5 * sizeof(float), rows.data(), 3 * sizeof(float),
                                    3 * sizeof(float), 2, cudaMemcpyHostToDevice, stream.get()));
  BIQA_CUDA_CHECK(cudaMemset2DAsync(buffer.data(), 5 * sizeof(float), 0, sizeof(float), 2, stream.get()));
  EXPECT_EQ(on_host(buffer.data(), 10, stream), (std::vector<float>{0, 2, 3, 0, 0, 0, 5, 6, 0, 0}));
  EXPECT_EQ(cudaMemcpy2DAsync(buffer.data(), 8, rows.data(), 12, 12, 2, cudaMemcpyHostToDevice, stream.get()),
            cudaErrorInvalidPitchValue);
}

TEST(CudaEmulatedMemory, PinnedMemoryIsTheHosts) {
  const Stream stream;
  void* pinned = nullptr;
  BIQA_CUDA_CHECK(cudaHostAlloc(&pinned, 4 * sizeof(float), cudaHostAllocDefault));
  std::fill_n(static_cast<float*>(pinned), 4, 7.0F);
  const DeviceBuffer buffer(4 * sizeof(float), "values");
  BIQA_CUDA_CHECK(
      cudaMemcpyAsync(buffer.data(), pinned, buffer.bytes(), cudaMemcpyHostToDevice, stream.get()));
  EXPECT_EQ(on_host(buffer.data(), 4, stream), std::vector<float>(4, 7.0F));
  BIQA_CUDA_CHECK(cudaFreeHost(pinned));
}

TEST(CudaEmulatedMemory, AddressesAreNotUsedAgain) {
  void* first = nullptr;
  void* second = nullptr;
  BIQA_CUDA_CHECK(cudaMalloc(&first, 100));
  BIQA_CUDA_CHECK(cudaFree(first));
  BIQA_CUDA_CHECK(cudaMalloc(&second, 100));
  EXPECT_NE(first, second);
  BIQA_CUDA_CHECK(cudaFree(second));
}

TEST(CudaEmulatedMemory, FreedInAStreamsOrder) {
  const Stream stream;
  emulation::set_streams(emulation::Streams::late);
  void* values = nullptr;
  BIQA_CUDA_CHECK(cudaMallocAsync(&values, 2 * sizeof(float), stream.get()));
  BIQA_CUDA_CHECK(cudaMemsetAsync(values, 0, 2 * sizeof(float), stream.get()));
  std::vector<float> host(2);
  BIQA_CUDA_CHECK(cudaMemcpyAsync(host.data(), values, 8, cudaMemcpyDeviceToHost, stream.get()));
  BIQA_CUDA_CHECK(cudaFreeAsync(values, stream.get()));
  EXPECT_NE(emulation::describe(values).find("device memory + 0"), std::string::npos);
  stream.synchronise();
  emulation::set_streams(emulation::Streams::at_once);
  EXPECT_EQ(host, std::vector<float>(2, 0.0F));
  EXPECT_NE(emulation::describe(values).find("freed device memory + 0"), std::string::npos);
}

TEST(CudaEmulatedMemory, TheDeviceHasSoMuch) {
  emulation::set_memory_limit(1000);
  const DeviceBuffer first(600, "first");
  std::size_t free = 0;
  std::size_t total = 0;
  BIQA_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(free, 400U);
  EXPECT_EQ(total, 1000U);
  void* more = nullptr;
  EXPECT_EQ(cudaMalloc(&more, 401), cudaErrorMemoryAllocation);
  emulation::set_memory_limit(std::size_t{16} << 30);
}

TEST(CudaEmulatedDevice, SharedMemoryIsThatOfItsArchitecture) {
  const DeviceBuffer buffer(32 * sizeof(float), "values");
  BIQA_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), nullptr));
  const auto start = [&](std::size_t shared_bytes) {
    launch(add_one_kernel, 1, 32, shared_bytes, Stream(), static_cast<float*>(buffer.data()));
  };
  emulation::set_device_capability(86);
  int most = 0;
  BIQA_CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  EXPECT_EQ(most, 99 * 1024);
  start(99 * 1024);
  EXPECT_ANY_THROW(start(99 * 1024 + 1));
  emulation::set_device_capability(90);
  start(227 * 1024);
  EXPECT_ANY_THROW(start(227 * 1024 + 1));
  cudaDeviceProp properties{};
  BIQA_CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  EXPECT_EQ(properties.major, 9);
  // Without the attribute a block gets 48 KiB.
  cudaLaunchConfig_t config{};
  config.dynamicSmemBytes = 48 * 1024 + 1;
  emulation::set_device_capability(90);
  EXPECT_EQ(cudaLaunchKernelEx(&config, add_one_kernel, static_cast<float*>(buffer.data())),
            cudaErrorInvalidValue);
}

TEST(CudaEmulatedMemoryDeathTest, TheHostMayNotFollowADevicePointer) {
  const DeviceBuffer buffer(32 * sizeof(float), "values");
  const volatile float* values = static_cast<const float*>(buffer.data());
  BIQA_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), nullptr));
  launch(add_one_kernel, 1, 32, 0, Stream(), static_cast<float*>(buffer.data()));
  EXPECT_DEATH(static_cast<void>(*values), "");
  {
    const emulation::OpenDeviceMemory open;
    EXPECT_EQ(*values, 1.0F);
  }
  EXPECT_DEATH(static_cast<void>(*values), "");
}

TEST(CudaEmulatedMemoryDeathTest, CopiesThatAreWrong) {
  const Stream stream;
  std::vector<float> host(8);
  const DeviceBuffer keys(8 * sizeof(float), "keys");
  const auto copy = [&](void* to, const void* from, std::size_t floats, cudaMemcpyKind kind) {
    cudaMemcpyAsync(to, from, floats * sizeof(float), kind, stream.get());
  };
  auto* device = static_cast<float*>(keys.data());
  EXPECT_DEATH(copy(host.data(), device, 8, cudaMemcpyHostToDevice),
               "a copy from host to device, source: keys \\+ 0 \\(of 32 bytes\\) is not host memory");
  EXPECT_DEATH(
      copy(device, host.data(), 8, cudaMemcpyDeviceToHost),
      "a copy from device to host, source: 32 bytes at host memory are not within an allocation of device");
  EXPECT_DEATH(copy(host.data(), device + 1, 8, cudaMemcpyDeviceToHost),
               "32 bytes at keys \\+ 4 \\(of 32 bytes\\) are not within an allocation");
  EXPECT_DEATH(copy(device, host.data(), 9, cudaMemcpyHostToDevice),
               "target: 36 bytes at keys \\+ 0 \\(of 32 bytes\\) are not within an allocation");
  EXPECT_DEATH(copy(device, device + 4, 5, cudaMemcpyDeviceToDevice), "source: 20 bytes at keys \\+ 16");
  EXPECT_DEATH(cudaMemsetAsync(device + 4, 0, 20, stream.get()), "cudaMemsetAsync: 20 bytes at keys \\+ 16");
  EXPECT_DEATH(cudaMemcpy2DAsync(device, 20, host.data(), 8, 8, 3, cudaMemcpyHostToDevice, stream.get()),
               "target: 48 bytes at keys");
}

TEST(CudaEmulatedMemoryDeathTest, FreedWrongly) {
  EXPECT_DEATH(
      {
        void* address = nullptr;
        cudaMalloc(&address, 8);
        emulation::label_device(address, "keys");
        cudaFree(address);
        cudaFree(address);
      },
      "cudaFree of freed keys \\+ 0 \\(of 8 bytes\\), which is not the start of a live allocation");
  EXPECT_DEATH(
      {
        void* address = nullptr;
        cudaMalloc(&address, 8);
        cudaFree(address);
        cudaMemsetAsync(address, 0, 8, nullptr);
      },
      "cudaMemsetAsync: 8 bytes at freed device memory");
  std::vector<float> host(1);
  EXPECT_DEATH(cudaFreeHost(host.data()), "cudaFreeHost of host memory, which cudaHostAlloc has not given");
}

TEST(CudaEmulatedMemoryDeathTest, LeaksFailTheProgram) {
  const auto leaks = [] {
    void* address = nullptr;
    cudaMalloc(&address, 100);
    emulation::label_device(address, "keys");
    cudaHostAlloc(&address, 10, cudaHostAllocDefault);
    cudaStream_t stream = nullptr;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaEvent_t event = nullptr;
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    std::exit(0);
  };
  EXPECT_EXIT(leaks(), ::testing::ExitedWithCode(1),
              "never freed: CUDA event \\(1, 0 bytes\\)\n.*never freed: CUDA stream \\(1, 0 "
              "bytes\\)\n.*never freed: keys "
              "\\(1, 100 bytes\\)\n.*never freed: pinned host memory \\(1, 10 bytes\\)");
}

}  // namespace
}  // namespace biqa::cuda
