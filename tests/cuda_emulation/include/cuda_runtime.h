// SPDX-License-Identifier: Apache-2.0
// Stands before CUDA's own header when the tests compile .cu files for the host: just what this project's
// sources use. Qualifiers are empty, static shared memory is a thread-local variable, device memory is host
// memory, and a launch runs the grid block by block (see block.h).
// Streams finish at once.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>

#include "cuda_emulation/block.h"
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
constinit inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

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
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  };
  biqa::emulation::Launch launch;
  launch.kernel = reinterpret_cast<const void*>(kernel);
  launch.grid = {grid.x, grid.y, grid.z};
  launch.block = {block.x, block.y, block.z};
  launch.shared_bytes = config->dynamicSmemBytes;
  launch.arguments = std::make_shared<const Call>(Call{kernel, {arguments...}});
  launch.argument_bytes = sizeof(Call);
  launch.call = [](const void* call) {
    const auto& c = *static_cast<const Call*>(call);
    std::apply(c.kernel, c.arguments);
  };
  biqa::emulation::run(launch);
  return cudaSuccess;
}

inline void __syncthreads() {
  biqa::emulation::block_barrier("__syncthreads", false);
}
inline int __syncthreads_or(int vote) {
  return biqa::emulation::block_barrier("__syncthreads_or", vote != 0).yes > 0 ? 1 : 0;
}
inline int __syncthreads_and(int vote) {
  const biqa::emulation::Votes votes = biqa::emulation::block_barrier("__syncthreads_and", vote != 0);
  return votes.yes == votes.all ? 1 : 0;
}
inline int __syncthreads_count(int vote) {
  return static_cast<int>(biqa::emulation::block_barrier("__syncthreads_count", vote != 0).yes);
}

#include "warp_functions.h"
