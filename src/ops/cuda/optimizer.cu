// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/optimizer.h"

#include "ops/cuda/kernel_support.h"
#include "ops/cuda/reduce.h"

namespace biqa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kChunk = std::int64_t{1} << 16;  // elements

/// One block per chunk.
__global__ void squares_kernel(const float* gradient, std::int64_t elements, double* chunks) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kChunk;
  const int count = elements - begin < kChunk ? static_cast<int>(elements - begin) : static_cast<int>(kChunk);
  double squares = 0;
  for (int i = thread_index() * kQuad; i < count; i += kThreads * kQuad) {
    const Quad<float> g = load_quad(gradient + begin + i, count - i);
    for (int j = 0; j < kQuad; ++j) squares += double{g.values[j]} * double{g.values[j]};
  }
  squares = sum_of_block(squares, dynamic_shared<double>());
  if (thread_index() == 0) chunks[blockIdx.x] = squares;
}

__global__ void sum_kernel(const double* chunks, std::int64_t count, double* sum) {
  double part = 0;
  for (std::int64_t i = thread_index(); i < count; i += kThreads) part += chunks[i];
  part = sum_of_block(part, dynamic_shared<double>());
  if (thread_index() == 0) *sum = part;
}

struct AdamW {
  float* values;
  const float* gradient;
  float* m;
  float* v;
  AdamWFactors<float> factors;
  __device__ void operator()(std::int64_t /*row*/, int i, int count) const {
    const Quad<float> g = load_quad(gradient + i, count);
    Quad<float> value = load_quad(values + i, count);
    Quad<float> first = load_quad(m + i, count);
    Quad<float> second = load_quad(v + i, count);
    for (int j = 0; j < kQuad; ++j) {
      adamw_element(g.values[j], factors, value.values[j], first.values[j], second.values[j]);
    }
    store_quad(values + i, count, value);
    store_quad(m + i, count, first);
    store_quad(v + i, count, second);
  }
};

void check_flat(ConstView view, std::int64_t elements) {
  CHECK((view.rows() == 1 || view.empty()) && view.columns() == elements)
      << view.rows() << "x" << view.columns() << " is no vector of " << elements;
}

}  // namespace

std::int64_t squared_norm_chunks(std::int64_t elements) {
  return (elements + kChunk - 1) / kChunk;
}

void squared_norm(ConstView gradient, double* chunks, double* sum, const Stream& stream) {
  check_flat(gradient, gradient.columns());
  const std::int64_t count = squared_norm_chunks(gradient.size());
  constexpr std::size_t kSharedBytes = kThreads / kWarpSize * sizeof(double);
  if (count > 0) {
    launch(squares_kernel, dim3(grid_size(count)), dim3(kThreads), kSharedBytes, stream,
           elements<float>(gradient), gradient.size(), chunks);
  }
  launch(sum_kernel, dim3(1), dim3(kThreads), kSharedBytes, stream, chunks, count, sum);
}

void adamw(View values, ConstView gradient, View m, View v, const AdamWStep& step, const Stream& stream) {
  check_flat(values, gradient.columns());
  check_flat(gradient, gradient.columns());
  check_flat(m, gradient.columns());
  check_flat(v, gradient.columns());
  launch_for_quads(gradient.rows(), gradient.columns(), stream,
                   AdamW{elements<float>(values), elements<float>(gradient), elements<float>(m),
                         elements<float>(v), adamw_factors<float>(step)});
}

}  // namespace biqa::cuda
