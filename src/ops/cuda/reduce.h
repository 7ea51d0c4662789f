// SPDX-License-Identifier: Apache-2.0
// Combines one value per thread over a warp or a block. The order depends only on the number of threads, and every
// thread gets the same bits.
#pragma once

#include "ops/cuda/kernel_support.h"

namespace biqa::cuda {

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
/// The larger of two values. For floats, a NaN loses against a number, so the maximum does not show NaNs.
struct Larger {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

template <typename T, typename Combine>
__device__ T combine_in_warp(T value, Combine combine) {
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kWholeWarp, value, distance));
  }
  return value;
}

/// For one-dimensional blocks of whole warps. Combining a value with `neutral` does not change the value. `scratch` is
/// shared memory with one T per warp. The next call may use the same scratch without a barrier between.
template <typename T, typename Combine>
__device__ T combine_in_block(T value, T neutral, T* scratch, Combine combine) {
  const int lane = thread_index() % kWarpSize;
  const int warps = block_threads() / kWarpSize;
  value = combine_in_warp(value, combine);
  if (warps == 1) return value;
  __syncthreads();
  if (lane == 0) scratch[thread_index() / kWarpSize] = value;
  __syncthreads();
  return combine_in_warp(lane < warps ? scratch[lane] : neutral, combine);
}

template <typename T>
__device__ T sum_of_warp(T value) {
  return combine_in_warp(value, Sum());
}
template <typename T>
__device__ T sum_of_block(T value, T* scratch) {
  return combine_in_block(value, T{}, scratch, Sum());
}

}  // namespace biqa::cuda
