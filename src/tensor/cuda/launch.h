// SPDX-License-Identifier: Apache-2.0
// Starts kernels and gives them dynamic shared memory. All CUDA sources use these functions, so that they also compile
// for the host with the tests' emulator.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdlib>

#include "tensor/cuda/runtime.h"

namespace biqa::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffU;

/// The launch's dynamic shared memory as elements of T (alignment up to 16 bytes).
alignas(16) extern __shared__ unsigned char dynamic_shared_bytes[];
template <typename T>
__device__ T* dynamic_shared() {
  static_assert(alignof(T) <= 16);
#ifdef __CUDACC__
  unsigned char* const bytes = dynamic_shared_bytes;
#else
  // In the emulator, each host thread has its own array, so the address is the result of an addition. ld turns this
  // addition into an instruction that sets no flags. The null check of g++ 14's sanitizer reads these flags. The
  // volatile pointer hides from the check where the address comes from.
  unsigned char* volatile bytes = dynamic_shared_bytes;
#endif
  return reinterpret_cast<T*>(bytes);
}

/// The first element of a view of device memory, for kernels. Checks that its type is T.
template <typename T>
T* elements(View view) {
  CHECK(dtype_of<T>() == view.type()) << "is " << name_of(view.type());
  return static_cast<T*>(view.address());
}
template <typename T>
const T* elements(ConstView view) {
  CHECK(dtype_of<T>() == view.type()) << "is " << name_of(view.type());
  return static_cast<const T*>(view.address());
}

/// True if BIQA_CUDA_SYNC=1: every launch waits for its kernel, so that an error appears at its cause.
inline bool synchronous_launches() {
  static const bool enabled = [] {
    const char* value = std::getenv("BIQA_CUDA_SYNC");
    return value != nullptr && value[0] == '1';
  }();
  return enabled;
}

/// Enqueues kernel<<<grid, block, shared_bytes, stream>>>(arguments...). Throws Error if the device refuses.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            const Stream& stream, Arguments... arguments) {
  constexpr std::size_t kSharedWithoutAsking = 48 * 1024;
  if (shared_bytes > kSharedWithoutAsking) {
    BIQA_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream.get();
  BIQA_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
  if (synchronous_launches()) stream.synchronise();
}

}  // namespace biqa::cuda
