// SPDX-License-Identifier: Apache-2.0
// The inner loops. They are included once per instruction set, each time with another BIQA_KERNEL_NAMESPACE. This file
// has the loops for rows and the adapter; the files included below have attention and products. Each accumulator sums
// its own data in a fixed order, so a row's sums do not depend on the number of rows.

#include "ops/cpu/kernel_attention_impl.h"
#include "ops/cpu/kernel_vectors_impl.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/vector_product_impl.h"

namespace biqa::cpu::BIQA_KERNEL_NAMESPACE {
namespace {

template <typename X, typename Y>
void convert_rows(const X* x, std::int64_t x_stride, Y* y, std::int64_t y_stride, std::int64_t rows,
                  std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r) {
    by_lanes(columns, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
      store_some(y + r * y_stride + i, count, load_some(x + r * x_stride + i, count));
    });
  }
}
void convert(Rows x, MutableRows y, std::int64_t rows, std::int64_t columns) {
  const auto* xf = static_cast<const float*>(x.data);
  const auto* xb = static_cast<const std::uint16_t*>(x.data);
  auto* yf = static_cast<float*>(y.data);
  auto* yb = static_cast<std::uint16_t*>(y.data);
  if (x.bf16 && y.bf16)
    convert_rows(xb, x.stride, yb, y.stride, rows, columns);
  else if (x.bf16)
    convert_rows(xb, x.stride, yf, y.stride, rows, columns);
  else if (y.bf16)
    convert_rows(xf, x.stride, yb, y.stride, rows, columns);
  else
    convert_rows(xf, x.stride, yf, y.stride, rows, columns);
}

BIQA_INLINE float inverse_rms(const float* x, std::int64_t n, float eps) {
  Floats squares{};
  by_lanes(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    const Floats v = load_some(x + i, count);
    squares += v * v;
  });
  return 1.0F / __builtin_sqrtf(sum_of(squares) / static_cast<float>(n) + eps);
}
template <typename Y>
void rms_norm_row(const float* x, const float* weight, float eps, std::int64_t n, Y* y) {
  const float r = inverse_rms(x, n, eps);
  by_lanes(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    store_some(y + i, count, load_some(x + i, count) * r * load_some(weight + i, count));
  });
}
void rms_norm(const float* x, const float* weight, float eps, std::int64_t n, void* y, bool bf16) {
  if (bf16)
    rms_norm_row(x, weight, eps, n, static_cast<std::uint16_t*>(y));
  else
    rms_norm_row(x, weight, eps, n, static_cast<float*>(y));
}
void rms_norm_backward(const float* x, const float* weight, float eps, const float* dy, std::int64_t n,
                       float* d_x) {
  const float r = inverse_rms(x, n, eps);
  Floats products{};
  by_lanes(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    products += load_some(dy + i, count) * load_some(weight + i, count) * load_some(x + i, count);
  });
  const float mean = sum_of(products) * r / static_cast<float>(n);
  by_lanes(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    const Floats dn = load_some(dy + i, count) * load_some(weight + i, count);
    const Floats normed = load_some(x + i, count) * r;
    store_some(d_x + i, count, load_some(d_x + i, count) + (dn - normed * mean) * r);
  });
}

template <typename H>
void swiglu_row(const float* gate, const float* up, std::int64_t n, H* h) {
  by_lanes(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    const Floats a = load_some(gate + i, count);
    store_some(h + i, count, a * sigmoid(a) * load_some(up + i, count));
  });
}
void swiglu(const float* gate, const float* up, std::int64_t n, void* h, bool bf16) {
  if (bf16)
    swiglu_row(gate, up, n, static_cast<std::uint16_t*>(h));
  else
    swiglu_row(gate, up, n, static_cast<float*>(h));
}
template <typename D>
void swiglu_backward_row(const float* gate, const float* up, const float* dh, std::int64_t n, D* d_gate,
                         D* d_up) {
  by_lanes(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    const Floats a = load_some(gate + i, count);
    const Floats d = load_some(dh + i, count);
    const Floats s = sigmoid(a);
    store_some(d_gate + i, count, d * load_some(up + i, count) * s * (1.0F + a * (1.0F - s)));
    store_some(d_up + i, count, d * a * s);
  });
}
void swiglu_backward(const float* gate, const float* up, const float* dh, std::int64_t n, void* d_gate,
                     void* d_up, bool bf16) {
  if (bf16) {
    swiglu_backward_row(gate, up, dh, n, static_cast<std::uint16_t*>(d_gate),
                        static_cast<std::uint16_t*>(d_up));
  } else {
    swiglu_backward_row(gate, up, dh, n, static_cast<float*>(d_gate), static_cast<float*>(d_up));
  }
}

void rotate(float* x, std::int64_t heads, std::int64_t head_dim, const float* cosines, const float* sines,
            bool inverse) {
  const std::int64_t half = head_dim / 2;
  const float sign = inverse ? -1.0F : 1.0F;
  for (std::int64_t head = 0; head < heads; ++head) {
    float* low = x + head * head_dim;
    float* high = low + half;
    by_lanes(half, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
      const Floats a = load_some(low + i, count);
      const Floats b = load_some(high + i, count);
      const Floats c = load_some(cosines + i, count);
      const Floats s = load_some(sines + i, count) * sign;
      store_some(low + i, count, a * c - b * s);
      store_some(high + i, count, b * c + a * s);
    });
  }
}

template <int kRows, typename X>
BIQA_INLINE void reduce_block(const X* x, std::int64_t stride, std::int64_t n, const float* table,
                              std::int64_t padded_rank, std::int64_t offset, std::int64_t count, float* u,
                              std::int64_t u_stride) {
  FloatVector sums[kRows] = {};
  const auto add = [&](const float* row, std::int64_t row_stride, std::int64_t first, std::int64_t columns)
                       BIQA_INLINE_LAMBDA {
                         for (std::int64_t k = 0; k < columns; ++k) {
                           const FloatVector t = load_vector(table + (first + k) * padded_rank + offset);
#pragma GCC unroll 8
                           for (int r = 0; r < kRows; ++r) sums[r] += t * row[r * row_stride + k];
                         }
                       };
  if constexpr (sizeof(X) == 2) {
    // Widen x first, because taking a single value out of a bf16 vector costs more than its product.
    constexpr std::int64_t kChunk = 128;
    float wide[kRows * kChunk];
    for (std::int64_t first = 0; first < n; first += kChunk) {
      const std::int64_t columns = n - first < kChunk ? n - first : kChunk;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        by_lanes(columns, [&](std::int64_t i, std::int64_t lanes) BIQA_INLINE_LAMBDA {
          store(wide + r * kChunk + i, load_some(x + r * stride + first + i, lanes));
        });
      }
      add(wide, kChunk, first, columns);
    }
  } else {
    add(x, stride, 0, n);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) store_some_of_vector(u + r * u_stride + offset, count, sums[r]);
}
template <typename X>
void reduce_rows(const X* x, std::int64_t stride, std::int64_t rows, std::int64_t n, const float* table,
                 std::int64_t rank, std::int64_t padded_rank, float* u, std::int64_t u_stride) {
  for (std::int64_t offset = 0; offset < rank; offset += kVectorLanes) {
    const std::int64_t count = rank - offset < kVectorLanes ? rank - offset : kVectorLanes;
    std::int64_t r = 0;
    for (; r + 8 <= rows; r += 8) {
      reduce_block<8>(x + r * stride, stride, n, table, padded_rank, offset, count, u + r * u_stride,
                      u_stride);
    }
    for (; r < rows; ++r) {
      reduce_block<1>(x + r * stride, stride, n, table, padded_rank, offset, count, u + r * u_stride,
                      u_stride);
    }
  }
}
void reduce(Rows x, std::int64_t rows, std::int64_t n, const float* table, std::int64_t rank,
            std::int64_t padded_rank, float* u, std::int64_t u_stride) {
  if (x.bf16) {
    reduce_rows(static_cast<const std::uint16_t*>(x.data), x.stride, rows, n, table, rank, padded_rank, u,
                u_stride);
  } else {
    reduce_rows(static_cast<const float*>(x.data), x.stride, rows, n, table, rank, padded_rank, u, u_stride);
  }
}

template <int kRows>
BIQA_INLINE void expand_block(const float* u, std::int64_t u_stride, std::int64_t rank, const float* table,
                              std::int64_t table_stride, float scale, std::int64_t n, float* y,
                              std::int64_t y_stride) {
  in_steps<kVectorLanes>(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    FloatVector sums[kRows] = {};
    for (std::int64_t j = 0; j < rank; ++j) {
      const FloatVector t = load_some_of_vector(table + j * table_stride + i, count);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sums[r] += t * u[r * u_stride + j];
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      float* target = y + r * y_stride + i;
      store_some_of_vector(target, count, load_some_of_vector(target, count) + sums[r] * scale);
    }
  });
}
void expand(const float* u, std::int64_t u_stride, std::int64_t rows, std::int64_t rank, const float* table,
            std::int64_t table_stride, float scale, std::int64_t n, float* y, std::int64_t y_stride) {
  std::int64_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    expand_block<8>(u + r * u_stride, u_stride, rank, table, table_stride, scale, n, y + r * y_stride,
                    y_stride);
  }
  for (; r < rows; ++r) {
    expand_block<1>(u + r * u_stride, u_stride, rank, table, table_stride, scale, n, y + r * y_stride,
                    y_stride);
  }
}

template <int kRank, typename X>
BIQA_INLINE void outer_block(const float* u, std::int64_t u_stride, const X* x, std::int64_t stride,
                             std::int64_t rows, float scale, std::int64_t i, std::int64_t count, float* sum,
                             std::int64_t sum_stride) {
  FloatVector sums[kRank] = {};
  for (std::int64_t r = 0; r < rows; ++r) {
    const FloatVector v = load_some_of_vector(x + r * stride + i, count);
#pragma GCC unroll 8
    for (int j = 0; j < kRank; ++j) sums[j] += v * u[r * u_stride + j];
  }
#pragma GCC unroll 8
  for (int j = 0; j < kRank; ++j) {
    float* target = sum + j * sum_stride + i;
    store_some_of_vector(target, count, load_some_of_vector(target, count) + sums[j] * scale);
  }
}
template <typename X>
void outer_rows(const float* u, std::int64_t u_stride, const X* x, std::int64_t stride, std::int64_t rows,
                std::int64_t rank, float scale, std::int64_t begin, std::int64_t end, float* sum,
                std::int64_t sum_stride) {
  for (std::int64_t i = begin; i < end; i += kVectorLanes) {
    const std::int64_t count = end - i < kVectorLanes ? end - i : kVectorLanes;
    std::int64_t j = 0;
    for (; j + 8 <= rank; j += 8) {
      outer_block<8>(u + j, u_stride, x, stride, rows, scale, i, count, sum + j * sum_stride, sum_stride);
    }
    for (; j < rank; ++j) {
      outer_block<1>(u + j, u_stride, x, stride, rows, scale, i, count, sum + j * sum_stride, sum_stride);
    }
  }
}
void outer(const float* u, std::int64_t u_stride, Rows x, std::int64_t rows, std::int64_t rank, float scale,
           std::int64_t begin, std::int64_t end, float* sum, std::int64_t sum_stride) {
  if (x.bf16) {
    outer_rows(u, u_stride, static_cast<const std::uint16_t*>(x.data), x.stride, rows, rank, scale, begin,
               end, sum, sum_stride);
  } else {
    outer_rows(u, u_stride, static_cast<const float*>(x.data), x.stride, rows, rank, scale, begin, end, sum,
               sum_stride);
  }
}

void pair_rows(const std::uint16_t* x, std::int64_t stride, std::int64_t rows, std::uint32_t* pairs) {
  const auto words_of = [&](std::int64_t row, std::int64_t column) BIQA_INLINE_LAMBDA {
    return widened(row < rows ? read<Shorts>(x + row * stride + column) : Shorts{});
  };
  for (std::int64_t pair = 0; pair < 16; ++pair) {
    for (std::int64_t half = 0; half < 2; ++half) {
      const Words w = words_of(2 * pair, half * 16) | (words_of(2 * pair + 1, half * 16) << 16);
      write(pairs + half * 256 + pair * 16, w);
    }
  }
}

float dot(const float* a, const float* b, std::int64_t n) {
  Floats sums{};
  by_lanes(n, [&](std::int64_t i, std::int64_t count)
                  BIQA_INLINE_LAMBDA { sums += load_some(a + i, count) * load_some(b + i, count); });
  return sum_of(sums);
}
void add_scaled(const float* x, float factor, std::int64_t n, float* y) {
  by_lanes(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    store_some(y + i, count, load_some(y + i, count) + load_some(x + i, count) * factor);
  });
}
void scaled(const float* x, float factor, std::int64_t n, float* y) {
  by_lanes(n, [&](std::int64_t i, std::int64_t count)
                  BIQA_INLINE_LAMBDA { store_some(y + i, count, load_some(x + i, count) * factor); });
}

RowStatistics row_statistics(const float* logits, std::int64_t n, float inverse_temperature) {
  Floats highest = all(kLowest);
  by_lanes(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    const Floats z = count == kLanes ? load(logits + i) : load_part(logits + i, count, kLowest);
    highest = maximum(highest, z);
  });
  const float top = max_of(highest) * inverse_temperature;
  Floats sums{};
  Floats weighted{};
  by_lanes(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    const Floats z = load_some(logits + i, count) * inverse_temperature - top;
    const Floats e = count == kLanes ? exponential(z) : first_of(exponential(z), count);
    sums += e;
    weighted += e * z;
  });
  return {top, sum_of(sums), sum_of(weighted)};
}
template <typename Y>
void row_exp_typed(const float* logits, std::int64_t n, float inverse_temperature, float top, float factor,
                   Y* y) {
  by_lanes(n, [&](std::int64_t i, std::int64_t count) BIQA_INLINE_LAMBDA {
    store_some(y + i, count, exponential(load_some(logits + i, count) * inverse_temperature - top) * factor);
  });
}
void row_exp(const float* logits, std::int64_t n, float inverse_temperature, float top, float factor, void* y,
             bool bf16) {
  if (bf16)
    row_exp_typed(logits, n, inverse_temperature, top, factor, static_cast<std::uint16_t*>(y));
  else
    row_exp_typed(logits, n, inverse_temperature, top, factor, static_cast<float*>(y));
}

}  // namespace

const Kernels& table() {
  static const Kernels instance = {convert,      rms_norm,        rms_norm_backward,
                                   swiglu,       swiglu_backward, rotate,
                                   reduce,       expand,          outer,
                                   pair_rows,    attend,          attend_backward,
                                   softmax,      score_gradients, dot,
                                   add_scaled,   scaled,          row_statistics,
                                   row_exp,      panel_product,   kProductRows,
                                   kPanelColumns};
  return instance;
}

}  // namespace biqa::cpu::BIQA_KERNEL_NAMESPACE
