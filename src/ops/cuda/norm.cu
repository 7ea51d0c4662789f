// SPDX-License-Identifier: Apache-2.0
// RMSNorm and its backward pass. One block computes one row. Each thread sums elements at a fixed stride, then the
// threads' sums are added.
#include "ops/cuda/kernel_support.h"
#include "ops/cuda/reduce.h"
#include "ops/cuda/rows.h"

namespace biqa::cuda {
namespace {

constexpr int kMaxThreads = 1024;

/// 1/sqrt(mean of x² + epsilon), the same in every thread of the block.
__device__ float inverse_rms(const float* x, int columns, float epsilon, float* scratch) {
  float squares = 0.0F;
  for (int c = thread_index() * kQuad; c < columns; c += block_threads() * kQuad) {
    const Quad<float> v = load_quad(x + c, columns - c);
    for (int i = 0; i < kQuad; ++i) squares = fmaf(v.values[i], v.values[i], squares);
  }
  return 1.0F / sqrtf(sum_of_block(squares, scratch) / static_cast<float>(columns) + epsilon);
}

template <typename Output>
__global__ void rms_norm_kernel(Rows<const float> x, const float* weight, float epsilon, Rows<Output> y,
                                int columns) {
  const float* row = x[blockIdx.x];
  Output* to = y[blockIdx.x];
  const float scale = inverse_rms(row, columns, epsilon, dynamic_shared<float>());
  for (int c = thread_index() * kQuad; c < columns; c += block_threads() * kQuad) {
    Quad<float> v = load_quad(row + c, columns - c);
    const Quad<float> w = load_quad(weight + c, columns - c);
    for (int i = 0; i < kQuad; ++i) v.values[i] = v.values[i] * scale * w.values[i];
    store_quad(to + c, columns - c, v);
  }
}

__global__ void rms_norm_backward_kernel(Rows<const float> x, const float* weight, float epsilon,
                                         Rows<const float> dy, Rows<float> d_x, int columns) {
  const float* row = x[blockIdx.x];
  const float* d_row = dy[blockIdx.x];
  float* to = d_x[blockIdx.x];
  auto* scratch = dynamic_shared<float>();
  const float r = inverse_rms(row, columns, epsilon, scratch);
  float products = 0.0F;
  for (int c = thread_index() * kQuad; c < columns; c += block_threads() * kQuad) {
    const Quad<float> v = load_quad(row + c, columns - c);
    const Quad<float> d = load_quad(d_row + c, columns - c);
    const Quad<float> w = load_quad(weight + c, columns - c);
    for (int i = 0; i < kQuad; ++i) products = fmaf(d.values[i] * w.values[i], v.values[i], products);
  }
  const float mean = sum_of_block(products, scratch) * r / static_cast<float>(columns);
  for (int c = thread_index() * kQuad; c < columns; c += block_threads() * kQuad) {
    const Quad<float> v = load_quad(row + c, columns - c);
    const Quad<float> d = load_quad(d_row + c, columns - c);
    const Quad<float> w = load_quad(weight + c, columns - c);
    Quad<float> sum = load_quad(to + c, columns - c);
    for (int i = 0; i < kQuad; ++i) {
      const float normed = v.values[i] * r;
      sum.values[i] += (d.values[i] * w.values[i] - normed * mean) * r;
    }
    store_quad(to + c, columns - c, sum);
  }
}

void check_shapes(ConstView x, ConstView weight, ConstView y) {
  CHECK(x.rows() == y.rows() && x.columns() == y.columns() && weight.columns() == x.columns())
      << x.rows() << "x" << x.columns() << ", weight " << weight.columns() << ", y " << y.rows() << "x"
      << y.columns();
  CHECK(x.columns() <= std::numeric_limits<std::int32_t>::max() - kMaxThreads * kQuad)
      << x.columns() << " columns";
}

}  // namespace

void rms_norm(ConstView x, ConstView weight, float epsilon, View y, const Stream& stream) {
  check_shapes(x, weight, y);
  if (x.empty()) return;
  const int threads = threads_for(x.columns(), kMaxThreads);
  const std::size_t shared_bytes = static_cast<std::size_t>(threads / kWarpSize) * sizeof(float);
  with_float_type(y.type(), [&](auto zero) {
    using Output = decltype(zero);
    launch(rms_norm_kernel<Output>, dim3(grid_size(x.rows())), dim3(static_cast<unsigned>(threads)),
           shared_bytes, stream, rows_of<float>(x), elements<float>(weight), epsilon, rows_of<Output>(y),
           static_cast<int>(x.columns()));
  });
}

void rms_norm_backward(ConstView x, ConstView weight, float epsilon, ConstView dy, View d_x,
                       const Stream& stream) {
  check_shapes(x, weight, dy);
  check_shapes(x, weight, d_x);
  if (x.empty()) return;
  const int threads = threads_for(x.columns(), kMaxThreads);
  const std::size_t shared_bytes = static_cast<std::size_t>(threads / kWarpSize) * sizeof(float);
  launch(rms_norm_backward_kernel, dim3(grid_size(x.rows())), dim3(static_cast<unsigned>(threads)),
         shared_bytes, stream, rows_of<float>(x), elements<float>(weight), epsilon, rows_of<float>(dy),
         rows_of<float>(d_x), static_cast<int>(x.columns()));
}

}  // namespace biqa::cuda
