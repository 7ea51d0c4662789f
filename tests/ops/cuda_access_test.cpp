// SPDX-License-Identifier: Apache-2.0
// Every kind of wrong access by a kernel must be found and named; right kernels must pass.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/bf16.h"
#include "cuda_emulation/device_memory.h"
#include "cuda_emulation/emulator.h"
#include "cuda_emulation/host_matmul.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/warp.h"
#include "support/device_values.h"

namespace biqa::cuda {
namespace {

using emulation::Order;
using testing::DeviceValues;

constexpr unsigned kThreads = 64;

class CudaAccessDeathTest : public ::testing::TestWithParam<Order> {
 protected:
  void SetUp() override {
    if (!emulation::checks_accesses()) GTEST_SKIP() << "this build does not look at accesses";
    emulation::set_order(GetParam());
  }
  void TearDown() override { emulation::set_order(Order::forward); }
};

// --- barriers

enum class Sharing {
  right,
  no_barrier,
  no_warp_barrier,
  barrier_of_one_warp,
  overwritten,
  overwritten_in_warp
};

/// Sums neighbours through shared memory, twice.
__global__ void sharing_kernel(float* sums, Sharing fault) {
  auto* shared = dynamic_shared<float>();
  const unsigned thread = threadIdx.x;
  shared[thread] = 1.0F;
  if (fault == Sharing::no_warp_barrier) {  // only lanes of a warp share, and nothing orders them
    sums[thread] = shared[thread ^ 1U];
    return;
  }
  if (fault == Sharing::barrier_of_one_warp)
    __syncwarp();
  else if (fault != Sharing::no_barrier)
    __syncthreads();
  const float other = shared[(thread + 40) % kThreads];
  const float neighbour = shared[thread ^ 1U];
  if (fault == Sharing::overwritten_in_warp) {
    shared[thread] = 2.0F;  // its neighbour may not have read it yet
    return;
  }
  if (fault != Sharing::overwritten) __syncthreads();
  shared[thread] = other + neighbour;
  __syncwarp();
  sums[thread] = shared[thread ^ 1U];
}

void share(Sharing fault) {
  const DeviceValues<float> sums(kThreads, "sums");
  launch(sharing_kernel, 1, kThreads, kThreads * sizeof(float), Stream(), sums.data(), fault);
  EXPECT_EQ(sums.on_host(), std::vector<float>(kThreads, 2.0F));
}

TEST_P(CudaAccessDeathTest, Barriers) {
  share(Sharing::right);
  const std::string unordered = "(wrote|read) too, without a barrier between; kernel .*sharing_kernel, block";
  EXPECT_DEATH(share(Sharing::no_barrier), "reads 4 bytes at shared memory|" + unordered);
  EXPECT_DEATH(share(Sharing::no_warp_barrier), "reads 4 bytes at shared memory|" + unordered);
  EXPECT_DEATH(share(Sharing::barrier_of_one_warp), "reads 4 bytes at shared memory|" + unordered);
  EXPECT_DEATH(share(Sharing::overwritten),
               "writes 4 bytes at shared memory \\+ .*without a barrier between|" + unordered);
  EXPECT_DEATH(share(Sharing::overwritten_in_warp),
               "writes 4 bytes at shared memory \\+ .*without a barrier between|" + unordered);
}

/// All values are right in every order, whoever writes first; only the missing barrier is wrong.
__global__ void same_value_kernel(float* out) {
  auto* shared = dynamic_shared<float>();
  shared[0] = 3.0F;
  __syncthreads();
  out[threadIdx.x] = shared[0];
}

TEST_P(CudaAccessDeathTest, AWriteByManyOfTheSameValue) {
  const DeviceValues<float> out(kThreads, "out");
  EXPECT_DEATH(
      launch(same_value_kernel, 1, kThreads, sizeof(float), Stream(), out.data()),
      "writes 4 bytes at shared memory \\+ 0, which thread \\([0-9]+,0,0\\) wrote too, without a barrier "
      "between; kernel .*same_value_kernel, block \\(0,0,0\\), thread \\([0-9]+,0,0\\)");
}

/// Lanes order each other in groups of eight, then in pairs of groups.
__global__ void groups_kernel(int* out, bool in_groups) {
  auto* shared = dynamic_shared<int>();
  const unsigned lane = threadIdx.x;
  const unsigned first = lane / 8 * 8;
  shared[lane] = static_cast<int>(lane);
  __syncwarp(0xffU << first);
  int sum = 0;
  for (unsigned other = first; other < first + 8; ++other) sum += shared[other];
  __syncwarp(0xffU << first);
  shared[lane] = sum;
  if (in_groups)
    __syncwarp(0xffU << first);
  else
    __syncwarp();
  out[lane] = shared[(lane + 8) % 32];
}

TEST_P(CudaAccessDeathTest, PartsOfAWarp) {
  const DeviceValues<int> out(32, "out");
  launch(groups_kernel, 1, 32, 32 * sizeof(int), Stream(), out.data(), false);
  EXPECT_EQ(out.on_host()[0], 8 + 9 + 10 + 11 + 12 + 13 + 14 + 15);
  EXPECT_DEATH(launch(groups_kernel, 1, 32, 32 * sizeof(int), Stream(), out.data(), true),
               "which nobody has written|4 bytes at shared memory \\+ .*, which thread .* (wrote|read) too, "
               "without a barrier between");
}

// --- device memory

enum class Device { right, unwritten, beyond, before, freed, host, misaligned, unwritten_half };

__global__ void device_kernel(const float* in, float* out, Device fault) {
  const unsigned thread = threadIdx.x;
  if (fault == Device::beyond) in += 1;
  if (fault == Device::before) in -= 1;
  if (fault == Device::misaligned) {
    const auto* pairs = reinterpret_cast<const float2*>(in + 1);
    const float2 pair = pairs[thread % 8];
    out[thread] = pair.x + pair.y;
    return;
  }
  out[thread] = in[thread];
}

void read_device(Device fault) {
  const DeviceValues<float> in(std::vector<float>(kThreads, 1.0F), "keys");
  const DeviceValues<float> unwritten(kThreads, "scratch");
  const DeviceValues<float> out(kThreads, "out");
  std::vector<float> host(kThreads, 1.0F);
  const float* from = in.data();
  if (fault == Device::unwritten || fault == Device::unwritten_half) from = unwritten.data();
  if (fault == Device::host) from = host.data();
  if (fault == Device::freed) from = DeviceValues<float>(host, "queries").data();
  if (fault == Device::unwritten_half) {  // two of four bytes
    BIQA_CUDA_CHECK(cudaMemset2DAsync(unwritten.data(), sizeof(float), 0, 2, kThreads, nullptr));
  }
  launch(device_kernel, 1, kThreads, 0, Stream(), from, out.data(), fault);
  EXPECT_EQ(out.on_host(), host);
}

TEST_P(CudaAccessDeathTest, DeviceMemory) {
  read_device(Device::right);
  EXPECT_DEATH(read_device(Device::unwritten),
               "reads 4 bytes at scratch \\+ [0-9]+ \\(of 256 bytes\\), which nobody has "
               "written; kernel .*device_kernel, block \\(0,0,0\\), thread");
  EXPECT_DEATH(read_device(Device::unwritten_half),
               "reads 4 bytes at scratch \\+ [0-9]+ .*, which nobody has written");
  EXPECT_DEATH(read_device(Device::beyond),
               "reads 4 bytes at keys \\+ 256 \\(of 256 bytes\\), which is outside every "
               "allocation; .*thread \\(63,0,0\\)");
  EXPECT_DEATH(read_device(Device::before),
               "reads 4 bytes at .*, which is outside every allocation; .*thread "
               "\\(0,0,0\\)");
  EXPECT_DEATH(read_device(Device::freed),
               "reads 4 bytes at freed queries \\+ [0-9]+ .*, which is outside every");
  EXPECT_DEATH(read_device(Device::host),
               "reads 4 bytes at host memory, which is neither shared nor device memory nor "
               "the thread's own");
  EXPECT_DEATH(
      read_device(Device::misaligned),
      "the address keys \\+ [0-9]+ \\(of 256 bytes\\) is not aligned to the 8 bytes of .*float2.*; kernel");
}

// --- shared memory

enum class Shared { right, unwritten, beyond, of_another_block };

__global__ void shared_kernel(float* out, Shared fault) {
  auto* shared = dynamic_shared<float>();
  const unsigned thread = threadIdx.x;
  if (fault == Shared::beyond) shared += 1;
  if (fault == Shared::unwritten && thread == 9) {
    out[thread] = shared[thread];
    return;
  }
  // Shared memory does not keep what an earlier block left there.
  if (fault != Shared::of_another_block || blockIdx.x == gridDim.x - 1) shared[thread] = 1.0F;
  if (blockIdx.x == 0) out[thread] = shared[thread];
}

void use_shared(Shared fault) {
  emulation::set_order(fault == Shared::of_another_block ? Order::backward : emulation::order());
  const DeviceValues<float> out(kThreads, "out");
  launch(shared_kernel, 2, kThreads, kThreads * sizeof(float), Stream(), out.data(), fault);
  EXPECT_EQ(out.on_host(), std::vector<float>(kThreads, 1.0F));
}

TEST_P(CudaAccessDeathTest, SharedMemory) {
  use_shared(Shared::right);
  EXPECT_DEATH(use_shared(Shared::unwritten),
               "reads 4 bytes at shared memory \\+ 36, which nobody has written; .*thread "
               "\\(9,0,0\\)");
  EXPECT_DEATH(use_shared(Shared::beyond),
               "writes 4 bytes at shared memory \\+ 256, beyond the launch's 256 bytes; "
               ".*thread \\(63,0,0\\)");
  EXPECT_DEATH(use_shared(Shared::of_another_block),
               "shared memory \\+ [0-9]+, which nobody has written; .*block "
               "\\(0,0,0\\)");
}

thread_local int static_shared;  // what __shared__ would be here

__global__ void static_shared_kernel(int* out) {
  static_shared = static_cast<int>(threadIdx.x) + 1;
  __syncthreads();
  *out = static_shared;
}

TEST_P(CudaAccessDeathTest, StaticSharedMemoryIsRefused) {
  const DeviceValues<int> out(1, "out");
  EXPECT_DEATH(
      launch(static_shared_kernel, 1, 1, 0, Stream(), out.data()),
      "writes 4 bytes at host memory, which is neither shared nor device memory nor the thread's own");
}

// --- blocks

enum class Blocks { right, one_word, reads_others, no_arrival, overwrites };

__global__ void blocks_kernel(float* out, unsigned* counter, Blocks fault) {
  const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
  if (fault == Blocks::one_word) {
    if (threadIdx.x == 0) out[0] = 1.0F;
    return;
  }
  if (fault == Blocks::overwrites) {  // all blocks read a word, and one of them writes it
    const float seen = out[7];
    __syncthreads();
    if (index == 2 * blockDim.x) out[7] = seen + 1.0F;
    return;
  }
  out[index] = 1.0F;
  if (fault == Blocks::reads_others) {
    __syncthreads();
    out[index] += out[(index + blockDim.x) % (gridDim.x * blockDim.x)];
    return;
  }
  if (fault == Blocks::no_arrival || count_arrival(counter, gridDim.x)) {
    if (fault == Blocks::no_arrival) __syncthreads();
    float sum = 0.0F;
    for (unsigned block = 0; block < gridDim.x; ++block) sum += out[block * blockDim.x + threadIdx.x];
    out[gridDim.x * blockDim.x + threadIdx.x] = sum;
  }
}

void write_by_blocks(Blocks fault) {
  const DeviceValues<float> out(std::vector<float>(4 * kThreads), "sums");
  const DeviceValues<unsigned> counter(std::vector<unsigned>{0});
  launch(blocks_kernel, 3, kThreads, 0, Stream(), out.data(), counter.data(), fault);
  EXPECT_EQ(out.on_host()[3 * kThreads + 5], 3.0F);
}

TEST_P(CudaAccessDeathTest, Blocks) {
  write_by_blocks(Blocks::right);
  const std::string both =
      " \\(of 1024 bytes\\), which block \\([0-2],0,0\\) of this launch (wrote|read) too, without "
      "count_arrival between; kernel .*blocks_kernel, block \\([0-2],0,0\\), thread";
  EXPECT_DEATH(write_by_blocks(Blocks::one_word), "writes 4 bytes at sums \\+ 0" + both);
  EXPECT_DEATH(write_by_blocks(Blocks::reads_others), "4 bytes at sums \\+ [0-9]+" + both);
  EXPECT_DEATH(write_by_blocks(Blocks::no_arrival), "4 bytes at sums \\+ [0-9]+" + both);
  EXPECT_DEATH(write_by_blocks(Blocks::overwrites),
               "4 bytes at sums \\+ 28 .*block.* of this launch .*(wrote|read).*, without count_arrival "
               "between|4 bytes at "
               "sums \\+ 28 .*another block of this launch has read, without count_arrival between");
}

// --- what is right

/// Neighbours write halves of a word, constants and arguments are read, a local array is used, atomics meet.
struct Numbers {
  float values[5];
};
__global__ void right_kernel(Bf16* halves, unsigned* count, float* out, Numbers numbers) {
  static constexpr float kTable[] = {1.0F, 2.0F, 4.0F};
  const unsigned thread = threadIdx.x;
  halves[blockIdx.x * blockDim.x + thread] = to_bf16(static_cast<float>(thread));
  float own[5];
  for (unsigned i = 0; i < 5; ++i) own[(i + thread) % 5] = numbers.values[i] * kTable[thread % 3];
  atomicAdd(count, 1U);
  out[blockIdx.x * blockDim.x + thread] = own[thread % 5];
}

TEST_P(CudaAccessDeathTest, RightKernelsPass) {
  const DeviceValues<Bf16> halves(2 * kThreads, "halves");
  const DeviceValues<unsigned> count(std::vector<unsigned>{0});
  const DeviceValues<float> out(2 * kThreads, "out");
  launch(right_kernel, 2, kThreads, 0, Stream(), halves.data(), count.data(), out.data(),
         Numbers{{1, 2, 3, 4, 5}});
  EXPECT_EQ(count.on_host(), std::vector<unsigned>{2 * kThreads});
  EXPECT_EQ(out.on_host()[7], 2.0F);
}

INSTANTIATE_TEST_SUITE_P(Orders, CudaAccessDeathTest,
                         ::testing::Values(Order::forward, Order::backward, Order::shuffled));

TEST(CudaLibraryDeathTest, AStandInReadsWhatNobodyHasWritten) {
  if (!emulation::checks_accesses()) GTEST_SKIP() << "this build does not look at accesses";
  const DeviceValues<float> in(std::vector<float>(8, 1.0F), "keys");
  const DeviceValues<float> scratch(8, "scratch");
  emulation::library_reads(in.data(), 32);
  BIQA_CUDA_CHECK(cudaMemcpyAsync(scratch.data(), in.data(), 16, cudaMemcpyDeviceToDevice, nullptr));
  emulation::library_reads(scratch.data(), 16);
  EXPECT_DEATH(emulation::library_reads(scratch.data(), 20),
               "a library reads scratch \\+ 16 \\(of 32 bytes\\), which "
               "nobody has written");
  // What was never written stays so in copies.
  const DeviceValues<float> copy(8, "copy");
  BIQA_CUDA_CHECK(cudaMemcpyAsync(copy.data(), scratch.data(), 32, cudaMemcpyDeviceToDevice, nullptr));
  emulation::library_reads(copy.data(), 16);
  EXPECT_DEATH(emulation::library_reads(copy.data(), 32), "a library reads copy \\+ 16");
}

}  // namespace
}  // namespace biqa::cuda
