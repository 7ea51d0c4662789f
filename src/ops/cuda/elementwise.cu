// SPDX-License-Identifier: Apache-2.0
// Element-wise operations: activations, rotation and conversion.
#include "ops/cuda/kernel_support.h"
#include "ops/cuda/rows.h"
#include "ops/cuda/swiglu.h"

namespace biqa::cuda {
namespace {

template <typename Input, typename Output>
struct Swiglu {
  Rows<const Input> gate_up;
  Rows<Output> h;
  int width;
  __device__ void operator()(std::int64_t row, int c, int count) const {
    const Quad<float> gate = load_quad(gate_up[row] + c, count);
    Quad<float> y = load_quad(gate_up[row] + width + c, count);
    for (int i = 0; i < kQuad; ++i) {
      y.values[i] = swiglu_of(gate.values[i], y.values[i]);
    }
    store_quad(h[row] + c, count, y);
  }
};

template <typename Input, typename Output>
struct SwigluBackward {
  Rows<const Input> gate_up;
  Rows<const float> dh;
  Rows<Output> d_gate_up;
  int width;
  __device__ void operator()(std::int64_t row, int c, int count) const {
    const Quad<float> gate = load_quad(gate_up[row] + c, count);
    const Quad<float> up = load_quad(gate_up[row] + width + c, count);
    const Quad<float> d = load_quad(dh[row] + c, count);
    Quad<float> d_gate;
    Quad<float> d_up;
    for (int i = 0; i < kQuad; ++i) {
      const SwigluGradient gradient = swiglu_gradient(gate.values[i], up.values[i], d.values[i]);
      d_gate.values[i] = gradient.gate;
      d_up.values[i] = gradient.up;
    }
    store_quad(d_gate_up[row] + c, count, d_gate);
    store_quad(d_gate_up[row] + width + c, count, d_up);
  }
};

template <typename Output>
struct Gelu {
  Rows<const float> x;
  Rows<Output> y;
  __device__ void operator()(std::int64_t row, int c, int count) const {
    Quad<float> v = load_quad(x[row] + c, count);
    for (int i = 0; i < kQuad; ++i) {
      v.values[i] = 0.5F * v.values[i] * (1.0F + erff(v.values[i] * 0.70710678118654752F));
    }
    store_quad(y[row] + c, count, v);
  }
};

template <typename Input, typename Output>
struct Convert {
  Rows<const Input> x;
  Rows<Output> y;
  __device__ void operator()(std::int64_t row, int c, int count) const {
    store_quad(y[row] + c, count, load_quad(x[row] + c, count));
  }
};

struct RoundToBf16 {
  Rows<const float> x;
  Rows<float> y;
  __device__ void operator()(std::int64_t row, int c, int count) const {
    Quad<float> v = load_quad(x[row] + c, count);
    for (int i = 0; i < kQuad; ++i) v.values[i] = to_float(to_bf16(v.values[i]));
    store_quad(y[row] + c, count, v);
  }
};

/// One block per row, one thread per pair.
__global__ void rotate_kernel(Rows<float> x, int heads, int half, Rows<const float> cosines,
                              Rows<const float> sines, float sign) {
  for (int pair = thread_index(); pair < heads * half; pair += block_threads()) {
    const int j = pair % half;
    float* low = x[blockIdx.x] + (pair / half) * 2 * half + j;
    const float a = low[0];
    const float b = low[half];
    const float c = cosines[blockIdx.x][j];
    const float s = sines[blockIdx.x][j] * sign;
    low[0] = a * c - b * s;
    low[half] = b * c + a * s;
  }
}

void check_same_shape(ConstView x, ConstView y) {
  CHECK(x.rows() == y.rows() && x.columns() == y.columns())
      << x.rows() << "x" << x.columns() << " and " << y.rows() << "x" << y.columns();
}
void check_gate_up(ConstView gate_up, ConstView h) {
  CHECK(gate_up.columns() == 2 * h.columns() && gate_up.rows() == h.rows())
      << gate_up.rows() << "x" << gate_up.columns() << " for " << h.rows() << "x" << h.columns();
}

}  // namespace

void swiglu(ConstView gate_up, View h, const Stream& stream) {
  check_gate_up(gate_up, h);
  with_float_type(gate_up.type(), [&](auto in) {
    with_float_type(h.type(), [&](auto out) {
      using Input = decltype(in);
      using Output = decltype(out);
      launch_for_quads(
          h.rows(), h.columns(), stream,
          Swiglu<Input, Output>{rows_of<Input>(gate_up), rows_of<Output>(h), static_cast<int>(h.columns())});
    });
  });
}

void swiglu_backward(ConstView gate_up, ConstView dh, View d_gate_up, const Stream& stream) {
  check_gate_up(gate_up, dh);
  check_gate_up(d_gate_up, dh);
  with_float_type(gate_up.type(), [&](auto in) {
    with_float_type(d_gate_up.type(), [&](auto out) {
      using Input = decltype(in);
      using Output = decltype(out);
      launch_for_quads(
          dh.rows(), dh.columns(), stream,
          SwigluBackward<Input, Output>{rows_of<Input>(gate_up), rows_of<float>(dh),
                                        rows_of<Output>(d_gate_up), static_cast<int>(dh.columns())});
    });
  });
}

void gelu(ConstView x, View y, const Stream& stream) {
  check_same_shape(x, y);
  with_float_type(y.type(), [&](auto out) {
    using Output = decltype(out);
    launch_for_quads(x.rows(), x.columns(), stream, Gelu<Output>{rows_of<float>(x), rows_of<Output>(y)});
  });
}

void rotate(View x, std::int64_t head_dim, ConstView cosines, ConstView sines, bool inverse,
            const Stream& stream) {
  CHECK(head_dim > 0 && head_dim % 2 == 0 && x.columns() % head_dim == 0)
      << x.columns() << " columns, head dimension " << head_dim;
  check_same_shape(cosines, sines);
  CHECK(cosines.rows() == x.rows() && cosines.columns() == head_dim / 2)
      << cosines.rows() << "x" << cosines.columns() << " for " << x.rows() << "x" << x.columns();
  if (x.empty()) return;
  constexpr std::int64_t kMaxThreads = 256;
  const int heads = static_cast<int>(x.columns() / head_dim);
  const int half = static_cast<int>(head_dim / 2);
  const auto threads = static_cast<unsigned>(std::min(x.columns() / 2, kMaxThreads));
  launch(rotate_kernel, dim3(grid_size(x.rows())), dim3(threads), 0, stream, rows_of<float>(x), heads, half,
         rows_of<float>(cosines), rows_of<float>(sines), inverse ? -1.0F : 1.0F);
}

void convert(ConstView x, View y, const Stream& stream) {
  check_same_shape(x, y);
  with_float_type(x.type(), [&](auto in) {
    with_float_type(y.type(), [&](auto out) {
      using Input = decltype(in);
      using Output = decltype(out);
      launch_for_quads(x.rows(), x.columns(), stream,
                       Convert<Input, Output>{rows_of<Input>(x), rows_of<Output>(y)});
    });
  });
}

void round_to_bf16(ConstView x, View y, const Stream& stream) {
  check_same_shape(x, y);
  launch_for_quads(x.rows(), x.columns(), stream, RoundToBf16{rows_of<float>(x), rows_of<float>(y)});
}

}  // namespace biqa::cuda
