// SPDX-License-Identifier: Apache-2.0
// Late streams: what is read, overwritten or ordered wrongly shows.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda_emulation/emulator.h"
#include "ops/cuda/launch.h"

namespace biqa::cuda {
namespace {

class CudaLateStreams : public ::testing::Test {
 protected:
  void SetUp() override { emulation::set_streams(emulation::Streams::late); }
  void TearDown() override { emulation::set_streams(emulation::Streams::at_once); }

  static float* values(const DeviceBuffer& buffer) { return static_cast<float*>(buffer.data()); }
  static void to_host(float* host, const DeviceBuffer& device, const Stream& stream) {
    BIQA_CUDA_CHECK(
        cudaMemcpyAsync(host, device.data(), device.bytes(), cudaMemcpyDeviceToHost, stream.get()));
  }
  static void to_device(const DeviceBuffer& device, const float* host, const Stream& stream) {
    BIQA_CUDA_CHECK(
        cudaMemcpyAsync(device.data(), host, device.bytes(), cudaMemcpyHostToDevice, stream.get()));
  }
};

__global__ void double_kernel(float* values) {
  values[threadIdx.x] *= 2.0F;
}

TEST_F(CudaLateStreams, AResultIsThereOnlyAfterTheWait) {
  const Stream stream;
  const DeviceBuffer buffer(2 * sizeof(float), "values");
  const std::vector<float> in = {1, 2};
  std::vector<float> out = {2, 4};  // what the result will be: even then an early reader must notice
  to_device(buffer, in.data(), stream);
  launch(double_kernel, 1, 2, 0, stream, values(buffer));
  to_host(out.data(), buffer, stream);
  EXPECT_NE(out, (std::vector<float>{2, 4})) << "read before the wait";
  stream.synchronise();
  EXPECT_EQ(out, (std::vector<float>{2, 4}));
}

// CUDA reads pageable memory before the call returns, pinned memory later.
TEST_F(CudaLateStreams, PinnedSourcesAreReadLate) {
  const Stream stream;
  const DeviceBuffer buffer(2 * sizeof(float), "values");
  std::vector<float> pageable = {1, 2};
  to_device(buffer, pageable.data(), stream);
  pageable = {8, 9};
  std::vector<float> out(2);
  to_host(out.data(), buffer, stream);
  stream.synchronise();
  EXPECT_EQ(out, (std::vector<float>{1, 2}));

  void* memory = nullptr;
  BIQA_CUDA_CHECK(cudaHostAlloc(&memory, 2 * sizeof(float), cudaHostAllocDefault));
  auto* pinned = static_cast<float*>(memory);
  pinned[0] = 1;
  pinned[1] = 2;
  to_device(buffer, pinned, stream);
  pinned[0] = 8;  // too early
  to_host(pinned, buffer, stream);
  stream.synchronise();
  EXPECT_EQ(pinned[0], 8);
  EXPECT_EQ(pinned[1], 2) << "a source that is still to be read keeps its values";
  BIQA_CUDA_CHECK(cudaFreeHost(memory));
}

TEST_F(CudaLateStreams, EventsOrderTwoStreams) {
  for (const bool with_event : {true, false}) {
    const Stream first;
    const Stream second;
    const DeviceBuffer buffer(2 * sizeof(float), "values");
    cudaEvent_t event = nullptr;
    BIQA_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    const std::vector<float> in = {1, 2};
    std::vector<float> out(2);
    BIQA_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), nullptr));
    BIQA_CUDA_CHECK(cudaDeviceSynchronize());
    to_device(buffer, in.data(), first);
    BIQA_CUDA_CHECK(cudaEventRecord(event, first.get()));
    if (with_event) BIQA_CUDA_CHECK(cudaStreamWaitEvent(second.get(), event));
    launch(double_kernel, 1, 2, 0, second, values(buffer));
    to_host(out.data(), buffer, second);
    second.synchronise();
    EXPECT_EQ(out == (std::vector<float>{2, 4}), with_event) << "a missing order must show";
    BIQA_CUDA_CHECK(cudaEventSynchronize(event));
    BIQA_CUDA_CHECK(cudaEventDestroy(event));
  }
}

TEST_F(CudaLateStreams, WhoeverAsksOftenEnoughSeesTheEnd) {
  const Stream stream;
  const DeviceBuffer buffer(2 * sizeof(float), "values");
  cudaEvent_t event = nullptr;
  BIQA_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess) << "never recorded";
  BIQA_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), stream.get()));
  BIQA_CUDA_CHECK(cudaEventRecord(event, stream.get()));
  BIQA_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), stream.get()));
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(stream.get()), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamQuery(stream.get()), cudaSuccess);
  BIQA_CUDA_CHECK(cudaEventDestroy(event));
}

// Freeing waits for everything, also for what a destroyed stream has left.
TEST_F(CudaLateStreams, ADestroyedStreamStillDoesItsWork) {
  const DeviceBuffer buffer(2 * sizeof(float), "values");
  std::vector<float> out(2);
  {
    const Stream stream;
    BIQA_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), stream.get()));
    to_host(out.data(), buffer, stream);
  }
  EXPECT_NE(out, std::vector<float>(2, 0.0F));
  BIQA_CUDA_CHECK(cudaDeviceSynchronize());
  EXPECT_EQ(out, std::vector<float>(2, 0.0F));
}

// The program ends before the stream gets to the work that frees: the memory is no leak.
TEST_F(CudaLateStreams, MemoryThatAStreamWillFreeIsNoLeak) {
  const auto end = [](bool frees) {
    const Stream stream;
    void* address = nullptr;
    BIQA_CUDA_CHECK(cudaMallocAsync(&address, 100, stream.get()));
    if (frees) BIQA_CUDA_CHECK(cudaFreeAsync(address, stream.get()));
  };
  EXPECT_EXIT((end(true), std::exit(0)), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT((end(false), std::exit(0)), ::testing::ExitedWithCode(1),
              "never freed: device memory \\(1, 100 bytes\\)");
}

TEST_F(CudaLateStreams, MemoryIsFreedOnce) {
  const auto twice = [] {
    const Stream stream;
    void* address = nullptr;
    BIQA_CUDA_CHECK(cudaMallocAsync(&address, 100, stream.get()));
    BIQA_CUDA_CHECK(cudaFreeAsync(address, stream.get()));
    BIQA_CUDA_CHECK(cudaFreeAsync(address, stream.get()));
  };
  EXPECT_DEATH(twice(), "cudaFreeAsync of device memory \\+ 0 \\(of 100 bytes\\), which is not the start");
}

}  // namespace
}  // namespace biqa::cuda
