// SPDX-License-Identifier: Apache-2.0
// Shared by kernels: rows in device memory, access to four elements at a time, and the launch of element-wise
// operations. Private to the .cu files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/bf16.h"
#include "ops/cuda/launch.h"

namespace biqa::cuda {

/// Rows of a matrix in device memory, with a stride between them.
template <typename T>
struct Rows {
  T* data = nullptr;
  std::int64_t stride = 0;
  __device__ T* operator[](std::int64_t row) const { return data + row * stride; }
};
template <typename T>
Rows<T> rows_of(View view) {
  return {elements<T>(view), view.stride()};
}
template <typename T>
Rows<const T> rows_of(ConstView view) {
  return {elements<T>(view), view.stride()};
}

/// Calls f with a zero of the element type, float or Bf16.
template <typename F>
void with_float_type(DType type, F f) {
  if (type == DType::f32) {
    f(0.0F);
  } else {
    CHECK(type == DType::bf16) << name_of(type);
    f(Bf16{});
  }
}

__device__ inline float value_of(float x) {
  return x;
}
__device__ inline float value_of(Bf16 x) {
  return to_float(x);
}
template <typename T>
__device__ T rounded_to(float x) {
  if constexpr (sizeof(T) == sizeof(float))
    return x;
  else
    return to_bf16(x);
}

/// Four adjacent elements. If their address is aligned, a thread reads or writes them with one instruction.
inline constexpr int kQuad = 4;
template <typename T>
struct alignas(kQuad * sizeof(T)) Quad {
  T values[kQuad];
};
template <typename T>
__device__ bool is_whole_quad(const T* address, int count) {
  return count >= kQuad && reinterpret_cast<std::uintptr_t>(address) % sizeof(Quad<T>) == 0;
}
/// Loads the first `count` of four elements. The others are zero.
template <typename T>
__device__ Quad<T> load_elements(const T* from, int count) {
  if (is_whole_quad(from, count)) return *reinterpret_cast<const Quad<T>*>(from);
  Quad<T> quad{};
  for (int i = 0; i < kQuad; ++i) {
    if (i < count) quad.values[i] = from[i];
  }
  return quad;
}
template <typename T>
__device__ void store_elements(T* to, int count, const Quad<T>& quad) {
  if (is_whole_quad(to, count)) {
    *reinterpret_cast<Quad<T>*>(to) = quad;
    return;
  }
  for (int i = 0; i < kQuad; ++i) {
    if (i < count) to[i] = quad.values[i];
  }
}
/// The same with conversion from and to f32.
template <typename T>
__device__ Quad<float> load_quad(const T* from, int count) {
  const Quad<T> stored = load_elements(from, count);
  Quad<float> quad;
  for (int i = 0; i < kQuad; ++i) quad.values[i] = value_of(stored.values[i]);
  return quad;
}
template <typename T>
__device__ void store_quad(T* to, int count, const Quad<float>& quad) {
  Quad<T> stored;
  for (int i = 0; i < kQuad; ++i) stored.values[i] = rounded_to<T>(quad.values[i]);
  store_elements(to, count, stored);
}

__device__ inline int thread_index() {
  return static_cast<int>(threadIdx.x);
}
__device__ inline int block_threads() {
  return static_cast<int>(blockDim.x);
}

/// Number of threads for a block in which each thread takes four columns: whole warps, at most `most`.
inline int threads_for(std::int64_t columns, int most) {
  const std::int64_t quads = (columns + kQuad - 1) / kQuad;
  const std::int64_t warps = (quads + kWarpSize - 1) / kWarpSize;
  return static_cast<int>(std::clamp<std::int64_t>(warps * kWarpSize, kWarpSize, most));
}
/// A size of a grid. Checks that CUDA allows it in the first dimension.
inline unsigned grid_size(std::int64_t blocks) {
  CHECK(blocks > 0 && blocks <= std::numeric_limits<std::int32_t>::max()) << blocks << " blocks";
  return static_cast<unsigned>(blocks);
}

/// Maximum number of columns that a block of for_quads processes.
inline constexpr int kColumnsOfBlock = 4096;

/// Calls body(row, column, count) for every group of four columns of every row. `count` is 4, or less at the end of a
/// row.
template <typename Body>
__global__ void for_quads(Body body, int columns) {
  const int begin = static_cast<int>(blockIdx.y) * kColumnsOfBlock;
  const int end = columns - begin < kColumnsOfBlock ? columns : begin + kColumnsOfBlock;
  for (int c = begin + thread_index() * kQuad; c < end; c += block_threads() * kQuad) {
    const int count = end - c < kQuad ? end - c : kQuad;
    body(static_cast<std::int64_t>(blockIdx.x), c, count);
  }
}
template <typename Body>
void launch_for_quads(std::int64_t rows, std::int64_t columns, const Stream& stream, const Body& body) {
  if (rows == 0 || columns == 0) return;
  constexpr std::int64_t kMaxGridY = 65535;
  CHECK(columns <= kMaxGridY * kColumnsOfBlock) << columns << " columns";
  const std::int64_t chunks = (columns + kColumnsOfBlock - 1) / kColumnsOfBlock;
  const dim3 grid(grid_size(rows), static_cast<unsigned>(chunks));
  constexpr int kMaxThreads = 256;
  const auto threads =
      static_cast<unsigned>(threads_for(std::min<std::int64_t>(columns, kColumnsOfBlock), kMaxThreads));
  launch(for_quads<Body>, grid, dim3(threads), 0, stream, body, static_cast<int>(columns));
}

}  // namespace biqa::cuda
