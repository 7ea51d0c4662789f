// SPDX-License-Identifier: Apache-2.0
// One block per row: strided partial sums, a shuffle within each warp, the warps' sums through shared memory.
#include "ops/cuda/rms_norm.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <limits>

#include "ops/cuda/launch.h"

namespace biqa::cuda {
namespace {

constexpr int kMaxThreads = 1024;

__device__ float sum_of_warp(float value) {
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, distance);
  }
  return value;
}

/// The sum over the block's threads, the same in each of them; `scratch` holds one float per warp.
__device__ float sum_of_block(float value, float* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  value = sum_of_warp(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  return sum_of_warp(lane < warps ? scratch[lane] : 0.0F);
}

__device__ void store(float* to, float value) {
  *to = value;
}
__device__ void store(__nv_bfloat16* to, float value) {
  *to = __float2bfloat16_rn(value);
}

template <typename Output>
__global__ void rms_norm_kernel(const float* x, std::int64_t x_stride, const float* weight, float epsilon,
                                Output* y, std::int64_t y_stride, int columns) {
  x += static_cast<std::int64_t>(blockIdx.x) * x_stride;
  y += static_cast<std::int64_t>(blockIdx.x) * y_stride;
  float squares = 0.0F;
  for (int c = static_cast<int>(threadIdx.x); c < columns; c += static_cast<int>(blockDim.x)) {
    squares += x[c] * x[c];
  }
  const float mean = sum_of_block(squares, dynamic_shared<float>()) / static_cast<float>(columns);
  const float scale = 1.0F / sqrtf(mean + epsilon);
  for (int c = static_cast<int>(threadIdx.x); c < columns; c += static_cast<int>(blockDim.x)) {
    store(&y[c], x[c] * scale * weight[c]);
  }
}

}  // namespace

void rms_norm(ConstView x, ConstView weight, float epsilon, View y, const Stream& stream) {
  CHECK(x.type() == DType::f32 && weight.type() == DType::f32)
      << name_of(x.type()) << " " << name_of(weight.type());
  CHECK(x.rows() == y.rows() && x.columns() == y.columns() && weight.columns() == x.columns())
      << x.rows() << "x" << x.columns() << ", weight " << weight.columns() << ", y " << y.rows() << "x"
      << y.columns();
  CHECK(x.rows() <= std::numeric_limits<int>::max() && x.columns() <= std::numeric_limits<int>::max());
  if (x.empty()) return;
  const int columns = static_cast<int>(x.columns());
  const int warps = std::min((columns + kWarpSize - 1) / kWarpSize, kMaxThreads / kWarpSize);
  const dim3 grid(static_cast<unsigned>(x.rows()));
  const dim3 block(static_cast<unsigned>(warps * kWarpSize));
  const std::size_t shared_bytes = static_cast<std::size_t>(warps) * sizeof(float);
  const float* in = x.address<float>();
  const float* scales = weight.address<float>();
  if (y.type() == DType::f32) {
    launch(rms_norm_kernel<float>, grid, block, shared_bytes, stream, in, x.stride(), scales, epsilon,
           y.address<float>(), y.stride(), columns);
  } else {
    CHECK(y.type() == DType::bf16) << name_of(y.type());
    launch(rms_norm_kernel<__nv_bfloat16>, grid, block, shared_bytes, stream, in, x.stride(), scales, epsilon,
           static_cast<__nv_bfloat16*>(y.address()), y.stride(), columns);
  }
}

}  // namespace biqa::cuda
