// SPDX-License-Identifier: Apache-2.0
// Stands before CUDA's own header when the tests compile .cu files for the host: just what this project's
// sources use. Qualifiers are empty, static shared memory is a thread-local variable, device memory is host
// memory, and a launch runs the grid block by block, the threads of a block as fibers (see emulator.h).
// Streams finish at once.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>

#include "cuda_emulation/emulator.h"

#define __global__
#define __device__
#define __host__
#define __shared__ thread_local

using cudaStream_t = struct EmulatedStream*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
inline constexpr unsigned cudaStreamNonBlocking = 1;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1,
                 unsigned z_size = 1)  // NOLINT(google-explicit-constructor)
      : x(x_size), y(y_size), z(z_size) {}
};
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

const char* cudaGetErrorName(cudaError_t status);
const char* cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMalloc(void** address, std::size_t bytes);
cudaError_t cudaFree(void* address);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* /*kernel*/, cudaFuncAttribute /*attribute*/, int bytes) {
  return bytes <= biqa::emulation::kMaxSharedBytes ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Parameters... arguments) {
  const dim3 grid = config->gridDim;
  const dim3 block = config->blockDim;
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 ||
      grid.z > 65535 || config->dynamicSmemBytes > biqa::emulation::kMaxSharedBytes) {
    return cudaErrorInvalidValue;
  }
  gridDim = grid;
  blockDim = block;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        biqa::emulation::run_block(
            static_cast<int>(threads), config->dynamicSmemBytes,
            [&](int thread) {
              const auto index = static_cast<unsigned>(thread);
              threadIdx = dim3(index % block.x, index / block.x % block.y, index / (block.x * block.y));
            },
            [&] { kernel(arguments...); });
      }
    }
  }
  return cudaSuccess;
}

inline void __syncthreads() {
  biqa::emulation::wait_for_block();
}

inline void __syncwarp(unsigned mask = 0xffffffffU) {
  biqa::emulation::wait_for_warp(mask);
}

/// The value that lane (own lane XOR `distance`) passes.
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = biqa::emulation::exchange(mask, bits, biqa::emulation::lane() ^ distance);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
