// SPDX-License-Identifier: Apache-2.0
// The inner loops, included once per instruction set with another BIQA_KERNEL_NAMESPACE. Vectors are the compiler's own
// type with 16 floats on every machine, so the order of each sum does not depend on the hardware. Each accumulator sums
// its own data in a fixed order, so a row's sums do not depend on the number of rows.

#include "ops/cpu/kernels.h"
#include "ops/cpu/vector_product_impl.h"

namespace biqa::cpu::BIQA_KERNEL_NAMESPACE {
namespace {

#define BIQA_INLINE inline __attribute__((always_inline))

constexpr std::int64_t kLanes = 16;
using Floats = float __attribute__((vector_size(64)));
using Ints = std::int32_t __attribute__((vector_size(64)));
using Words = std::uint32_t __attribute__((vector_size(64)));
using Shorts = std::uint16_t __attribute__((vector_size(32)));

constexpr float kLowest = -__builtin_inff();

BIQA_INLINE Floats load(const float* p) {
  Floats v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
BIQA_INLINE void store(float* p, Floats v) {
  __builtin_memcpy(p, &v, sizeof v);
}
BIQA_INLINE Floats all(float x) {
  return x - Floats{};  // x − 0 has the bits of x, so the compiler emits no subtraction
}

BIQA_INLINE Floats load(const std::uint16_t* p) {
  Shorts s;
  __builtin_memcpy(&s, p, sizeof s);
  const Words w = __builtin_convertvector(s, Words) << 16;
  Floats v;
  __builtin_memcpy(&v, &w, sizeof v);
  return v;
}
/// The bits of v in bf16, in the lower half of each word.
BIQA_INLINE Words bf16_bits(Floats v) {
  Words w;
  __builtin_memcpy(&w, &v, sizeof w);
  const Words rounded = (w + 0x7fffU + ((w >> 16) & 1U)) >> 16;
  const Words quiet = (w >> 16) | 0x40U;
  const Words is_nan = static_cast<Words>((w & 0x7fffffffU) > 0x7f800000U);
  return (rounded & ~is_nan) | (quiet & is_nan);
}
BIQA_INLINE void store(std::uint16_t* p, Floats v) {
  const Shorts s = __builtin_convertvector(bf16_bits(v), Shorts);
  __builtin_memcpy(p, &s, sizeof s);
}
BIQA_INLINE Floats floats_of(Words w) {
  Floats v;
  __builtin_memcpy(&v, &w, sizeof v);
  return v;
}
struct TwoRows {
  Floats first, second;
};
/// 16 elements of each of two rows in bf16, stored in pairs.
BIQA_INLINE TwoRows load_pairs(const std::uint16_t* p) {
  Words w;
  __builtin_memcpy(&w, p, sizeof w);
  return {floats_of(w << 16), floats_of(w & 0xffff0000U)};
}
template <typename T>
BIQA_INLINE Floats load_part(const T* p, std::int64_t count, float rest = 0.0F) {
  T values[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) values[i] = p[i];
  Floats v = load(values);
  if (rest != 0.0F) {
    for (std::int64_t i = count; i < kLanes; ++i) v[i] = rest;
  }
  return v;
}
template <typename T>
BIQA_INLINE void store_part(T* p, std::int64_t count, Floats v) {
  T values[kLanes];
  store(values, v);
  for (std::int64_t i = 0; i < count; ++i) p[i] = values[i];
}

BIQA_INLINE Floats maximum(Floats a, Floats b) {
  return a > b ? a : b;
}
BIQA_INLINE Floats minimum(Floats a, Floats b) {
  return a < b ? a : b;
}

BIQA_INLINE float sum_of(Floats v) {
  float values[kLanes];
  store(values, v);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) values[i] += values[i + width];
  }
  return values[0];
}
BIQA_INLINE float max_of(Floats v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

/// exp, accurate to about one unit in the last place: 2^n · p(r), r = x − n ln 2 (Cody and Waite's split), where p is a
/// polynomial of degree 6. NaN stays NaN, because maximum and minimum return their second operand if one is NaN.
BIQA_INLINE Floats exponential(Floats x) {
  const Floats clamped = minimum(all(88.7F), maximum(all(-87.3F), x));
  const Floats magic = all(12582912.0F);  // 1.5·2^23: adding it rounds to the nearest integer
  const Floats n = (clamped * 1.4426950408889634F + magic) - magic;
  const Floats r = (clamped - n * 0.693359375F) - n * -2.12194440e-4F;
  Floats p = all(1.9875691500e-4F);
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats power;
  __builtin_memcpy(&power, &exponent, sizeof power);
  const Floats y = p * power;
  return x < all(-87.3F) ? Floats{} : y;
}
BIQA_INLINE Floats sigmoid(Floats x) {
  return 1.0F / (1.0F + exponential(-x));
}

/// Calls body(i, count) for i = 0, 16, …. count is 16, or less in the last call.
template <typename Body>
BIQA_INLINE void by_lanes(std::int64_t n, Body body) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, n - i);
}
template <typename T>
BIQA_INLINE Floats load_some(const T* p, std::int64_t count) {
  return count == kLanes ? load(p) : load_part(p, count);
}
template <typename T>
BIQA_INLINE void store_some(T* p, std::int64_t count, Floats v) {
  if (count == kLanes)
    store(p, v);
  else
    store_part(p, count, v);
}

template <typename X, typename Y>
void convert_rows(const X* x, std::int64_t x_stride, Y* y, std::int64_t y_stride, std::int64_t rows,
                  std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r) {
    by_lanes(columns, [&](std::int64_t i, std::int64_t count) {
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
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
    const Floats v = load_some(x + i, count);
    squares += v * v;
  });
  return 1.0F / __builtin_sqrtf(sum_of(squares) / static_cast<float>(n) + eps);
}
template <typename Y>
void rms_norm_row(const float* x, const float* weight, float eps, std::int64_t n, Y* y) {
  const float r = inverse_rms(x, n, eps);
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
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
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
    products += load_some(dy + i, count) * load_some(weight + i, count) * load_some(x + i, count);
  });
  const float mean = sum_of(products) * r / static_cast<float>(n);
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
    const Floats dn = load_some(dy + i, count) * load_some(weight + i, count);
    const Floats normed = load_some(x + i, count) * r;
    store_some(d_x + i, count, load_some(d_x + i, count) + (dn - normed * mean) * r);
  });
}

template <typename H>
void swiglu_row(const float* gate, const float* up, std::int64_t n, H* h) {
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
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
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
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
    by_lanes(half, [&](std::int64_t i, std::int64_t count) {
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
  Floats sums[kRows] = {};
  const auto add = [&](const float* row, std::int64_t row_stride, std::int64_t first, std::int64_t columns) {
    for (std::int64_t k = 0; k < columns; ++k) {
      const Floats t = load(table + (first + k) * padded_rank + offset);
      for (int r = 0; r < kRows; ++r) sums[r] += t * row[r * row_stride + k];
    }
  };
  if constexpr (sizeof(X) == 2) {
    // Widen x first, because taking a single value out of a bf16 vector costs more than its product.
    constexpr std::int64_t kChunk = 128;
    float wide[kRows * kChunk];
    for (std::int64_t first = 0; first < n; first += kChunk) {
      const std::int64_t columns = n - first < kChunk ? n - first : kChunk;
      for (int r = 0; r < kRows; ++r) {
        by_lanes(columns, [&](std::int64_t i, std::int64_t lanes) {
          store(wide + r * kChunk + i, load_some(x + r * stride + first + i, lanes));
        });
      }
      add(wide, kChunk, first, columns);
    }
  } else {
    add(x, stride, 0, n);
  }
  for (int r = 0; r < kRows; ++r) store_some(u + r * u_stride + offset, count, sums[r]);
}
template <typename X>
void reduce_rows(const X* x, std::int64_t stride, std::int64_t rows, std::int64_t n, const float* table,
                 std::int64_t rank, std::int64_t padded_rank, float* u, std::int64_t u_stride) {
  for (std::int64_t offset = 0; offset < rank; offset += kLanes) {
    const std::int64_t count = rank - offset < kLanes ? rank - offset : kLanes;
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
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
    Floats sums[kRows] = {};
    for (std::int64_t j = 0; j < rank; ++j) {
      const Floats t = load_some(table + j * table_stride + i, count);
      for (int r = 0; r < kRows; ++r) sums[r] += t * u[r * u_stride + j];
    }
    for (int r = 0; r < kRows; ++r) {
      float* target = y + r * y_stride + i;
      store_some(target, count, load_some(target, count) + sums[r] * scale);
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
  Floats sums[kRank] = {};
  for (std::int64_t r = 0; r < rows; ++r) {
    const Floats v = load_some(x + r * stride + i, count);
    for (int j = 0; j < kRank; ++j) sums[j] += v * u[r * u_stride + j];
  }
  for (int j = 0; j < kRank; ++j) {
    float* target = sum + j * sum_stride + i;
    store_some(target, count, load_some(target, count) + sums[j] * scale);
  }
}
template <typename X>
void outer_rows(const float* u, std::int64_t u_stride, const X* x, std::int64_t stride, std::int64_t rows,
                std::int64_t rank, float scale, std::int64_t begin, std::int64_t end, float* sum,
                std::int64_t sum_stride) {
  for (std::int64_t i = begin; i < end; i += kLanes) {
    const std::int64_t count = end - i < kLanes ? end - i : kLanes;
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
  const auto words_of = [&](std::int64_t row, std::int64_t column) {
    Shorts s{};
    if (row < rows) __builtin_memcpy(&s, x + row * stride + column, sizeof s);
    return __builtin_convertvector(s, Words);
  };
  for (std::int64_t pair = 0; pair < 16; ++pair) {
    for (std::int64_t half = 0; half < 2; ++half) {
      const Words w = words_of(2 * pair, half * 16) | (words_of(2 * pair + 1, half * 16) << 16);
      __builtin_memcpy(pairs + half * 256 + pair * 16, &w, sizeof w);
    }
  }
}

/// scores[q][16 keys of a page] = Σ_d q[d] · keys[d][·], summed in the order of d.
template <int kQueries>
BIQA_INLINE void page_scores(const float* const* q, int head_dim, const float* keys, Floats* scores) {
  for (int i = 0; i < kQueries; ++i) scores[i] = Floats{};
  for (int d = 0; d < head_dim; ++d) {
    const Floats k = load(keys + d * kLanes);
    for (int i = 0; i < kQueries; ++i) scores[i] += k * q[i][d];
  }
}
template <int kQueries>
BIQA_INLINE void page_scores(const float* const* q, int head_dim, const std::uint16_t* keys, Floats* scores) {
  for (int i = 0; i < kQueries; ++i) scores[i] = Floats{};
  for (int d = 0; d < head_dim; d += 2) {
    const TwoRows k = load_pairs(keys + d * kLanes);
    for (int i = 0; i < kQueries; ++i) scores[i] += k.first * q[i][d];
    for (int i = 0; i < kQueries; ++i) scores[i] += k.second * q[i][d + 1];
  }
}

/// 16 columns from `d` on of the values of keys j and j + 1 of a page; j is even.
BIQA_INLINE TwoRows value_rows(const float* values, int j, std::int64_t padded_dim, std::int64_t d) {
  return {load(values + j * padded_dim + d), load(values + (j + 1) * padded_dim + d)};
}
BIQA_INLINE TwoRows value_rows(const std::uint16_t* values, int j, std::int64_t padded_dim, std::int64_t d) {
  return load_pairs(values + j * padded_dim + 2 * d);
}

template <int kQueries, typename T>
void attend_queries(AttendBlock& block, int first) {
  const float* const* q = block.q + first;
  const std::int64_t* lengths = block.lengths + first;
  const auto* keys = static_cast<const T*>(block.keys);
  const auto* values = static_cast<const T*>(block.values);
  float* scores[kQueries];
  Floats highest[kQueries];
  std::int64_t shortest = lengths[0];
  std::int64_t longest = 0;
  for (int i = 0; i < kQueries; ++i) {
    scores[i] = block.scores + i * block.scores_stride;
    highest[i] = all(kLowest);
    shortest = lengths[i] < shortest ? lengths[i] : shortest;
    longest = lengths[i] > longest ? lengths[i] : longest;
  }
  const std::int64_t page_count = (longest + kLanes - 1) / kLanes;
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (std::int64_t p = 0; p < page_count; ++p) {
    const std::int64_t page = block.pages != nullptr ? block.pages[p] : p;
    Floats s[kQueries];
    page_scores<kQueries>(q, block.head_dim, keys + page * block.page_elements, s);
    for (int i = 0; i < kQueries; ++i) {
      const auto rest =
          static_cast<std::int32_t>(lengths[i] - p * kLanes < kLanes ? lengths[i] - p * kLanes : kLanes);
      const Floats masked = lane < rest ? s[i] * block.scale : all(kLowest);
      highest[i] = maximum(highest[i], masked);
      store(scores[i] + p * kLanes, masked);
    }
  }
  float inverse[kQueries];
  for (int i = 0; i < kQueries; ++i) {
    const float top = max_of(highest[i]);
    Floats sums{};
    const std::int64_t own_pages = (lengths[i] + kLanes - 1) / kLanes;
    for (std::int64_t p = 0; p < page_count; ++p) {
      const Floats e = p < own_pages ? exponential(load(scores[i] + p * kLanes) - top) : Floats{};
      sums += e;
      store(scores[i] + p * kLanes, e);
    }
    const float sum = sum_of(sums);
    inverse[i] = 1.0F / sum;
    block.lse[first + i] = top + __builtin_logf(sum);
  }
  const std::int64_t padded_dim = (block.head_dim + kLanes - 1) / kLanes * kLanes;
  const std::int64_t whole_pages = shortest / kLanes;
  for (std::int64_t d = 0; d < padded_dim; d += kLanes) {
    Floats sums[kQueries] = {};
    const auto values_of = [&](std::int64_t p) {
      return values + (block.pages != nullptr ? block.pages[p] : p) * block.page_elements;
    };
    for (std::int64_t p = 0; p < whole_pages; ++p) {
      const T* v = values_of(p);
      for (int j = 0; j < kLanes; j += 2) {
        const TwoRows rows = value_rows(v, j, padded_dim, d);
        for (int i = 0; i < kQueries; ++i) sums[i] += rows.first * scores[i][p * kLanes + j];
        for (int i = 0; i < kQueries; ++i) sums[i] += rows.second * scores[i][p * kLanes + j + 1];
      }
    }
    // These pages may also contain values that a query must not see: later rows, or old content of the page. Their
    // weight is zero, but they may be infinite or NaN, so they must not be multiplied.
    for (std::int64_t p = whole_pages; p < page_count; ++p) {
      const T* v = values_of(p);
      const std::int64_t start = p * kLanes;
      const std::int64_t count = longest - start < kLanes ? longest - start : kLanes;
      for (int j = 0; j < count; ++j) {
        const TwoRows rows = value_rows(v, j & ~1, padded_dim, d);
        const Floats row = (j & 1) == 0 ? rows.first : rows.second;
        for (int i = 0; i < kQueries; ++i) {
          if (start + j < lengths[i]) sums[i] += row * scores[i][start + j];
        }
      }
    }
    for (int i = 0; i < kQueries; ++i) store(block.out[first + i] + d, sums[i] * inverse[i]);
  }
}
template <typename T>
void attend_typed(AttendBlock& block) {
  int i = 0;
  for (; i + 8 <= block.queries; i += 8) attend_queries<8, T>(block, i);
  for (; i + 4 <= block.queries; i += 4) attend_queries<4, T>(block, i);
  for (; i + 2 <= block.queries; i += 2) attend_queries<2, T>(block, i);
  for (; i < block.queries; ++i) attend_queries<1, T>(block, i);
}
void attend(AttendBlock& block) {
  if (block.bf16)
    attend_typed<std::uint16_t>(block);
  else
    attend_typed<float>(block);
}

void softmax(ScoreRow& row) {
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const std::int64_t pages = (row.length + kLanes - 1) / kLanes;
  Floats highest = all(kLowest);
  for (std::int64_t p = 0; p < pages; ++p) {
    Floats s = load(row.scores + p * kLanes) * row.scale;
    if (p + 1 == pages) s = lane < static_cast<std::int32_t>(row.length - p * kLanes) ? s : all(kLowest);
    highest = maximum(highest, s);
    store(row.scores + p * kLanes, s);
  }
  const float top = max_of(highest);
  Floats sums{};
  for (std::int64_t p = 0; p < pages; ++p) {
    const Floats e = exponential(load(row.scores + p * kLanes) - top);
    sums += e;
    store(row.weights + p * kLanes, e);
  }
  for (std::int64_t p = pages; p * kLanes < row.padded_length; ++p) store(row.weights + p * kLanes, Floats{});
  row.sum = sum_of(sums);
  row.lse = top + __builtin_logf(row.sum);
}

void score_gradients(const ScoreGradients& g) {
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int pair = 0; pair < 16; ++pair) {
    Words weights[2];
    Words ds[2];
    for (int i = 0; i < 2; ++i) {
      const int q = 2 * pair + i;
      const auto rest = static_cast<std::int32_t>(g.lengths[q] - g.first_key);
      const Floats s = load(g.scores + q * kLanes) * g.scale - g.lse[q];
      const Floats e = lane < rest ? exponential(s) : Floats{};
      const Floats d = e * (load(g.d_weights + q * kLanes) - g.delta[q]) * g.scale;
      weights[i] = bf16_bits(e);
      ds[i] = bf16_bits(lane < rest ? d : Floats{});
      const Shorts row = __builtin_convertvector(ds[i], Shorts);
      __builtin_memcpy(g.rows + q * g.rows_stride, &row, sizeof row);
    }
    const Words weight_pair = weights[0] | (weights[1] << 16);
    const Words d_pair = ds[0] | (ds[1] << 16);
    __builtin_memcpy(g.weight_pairs + pair * kLanes, &weight_pair, sizeof weight_pair);
    __builtin_memcpy(g.d_pairs + pair * kLanes, &d_pair, sizeof d_pair);
  }
}

template <int kQueries>
void attend_backward_queries(AttendBackwardBlock& block, int first) {
  std::int64_t longest = 0;
  for (int i = 0; i < kQueries; ++i) {
    longest = block.lengths[first + i] > longest ? block.lengths[first + i] : longest;
  }
  const std::int64_t page_count = (longest + kLanes - 1) / kLanes;
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  float* probability[kQueries];
  float* d_score[kQueries];
  for (int i = 0; i < kQueries; ++i) {
    probability[i] = block.scores + i * block.scores_stride;
    d_score[i] = block.scores + (kQueryBlock + i) * block.scores_stride;
  }
  for (std::int64_t p = 0; p < page_count; ++p) {
    const std::int64_t offset = p * kLanes * block.head_dim;
    Floats s[kQueries];
    Floats dp[kQueries];
    page_scores<kQueries>(block.q + first, block.head_dim, block.keys_transposed + offset, s);
    page_scores<kQueries>(block.d_out + first, block.head_dim, block.values_transposed + offset, dp);
    for (int i = 0; i < kQueries; ++i) {
      const auto rest = static_cast<std::int32_t>(block.lengths[first + i] - p * kLanes);
      const Floats e = lane < rest ? exponential(s[i] * block.scale - block.lse[first + i]) : Floats{};
      const Floats d = e * (dp[i] - block.delta[first + i]) * block.scale;
      store(probability[i] + p * kLanes, e);
      store(d_score[i] + p * kLanes, lane < rest ? d : Floats{});
    }
  }
  for (std::int64_t d = 0; d < block.padded_dim; d += kLanes) {
    Floats sums[kQueries] = {};
    Floats queries[kQueries];
    Floats d_outs[kQueries];
    const std::int64_t count = block.head_dim - d < kLanes ? block.head_dim - d : kLanes;
    for (int i = 0; i < kQueries; ++i) {
      queries[i] = load_some(block.q[first + i] + d, count);
      d_outs[i] = load(block.d_out[first + i] + d);
    }
    for (std::int64_t key = 0; key < longest; ++key) {
      const Floats k = load(block.keys + key * block.padded_dim + d);
      float* d_key = block.d_keys + key * block.padded_dim + d;
      float* d_value = block.d_values + key * block.padded_dim + d;
      Floats dk = load(d_key);
      Floats dv = load(d_value);
      for (int i = 0; i < kQueries; ++i) {
        sums[i] += k * d_score[i][key];
        dk += queries[i] * d_score[i][key];
        dv += d_outs[i] * probability[i][key];
      }
      store(d_key, dk);
      store(d_value, dv);
    }
    for (int i = 0; i < kQueries; ++i) store(block.d_q[first + i] + d, sums[i]);
  }
}
void attend_backward(AttendBackwardBlock& block) {
  int i = 0;
  for (; i + 4 <= block.queries; i += 4) attend_backward_queries<4>(block, i);
  for (; i < block.queries; ++i) attend_backward_queries<1>(block, i);
}

float dot(const float* a, const float* b, std::int64_t n) {
  Floats sums{};
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
    sums += load_some(a + i, count) * load_some(b + i, count);
  });
  return sum_of(sums);
}
void add_scaled(const float* x, float factor, std::int64_t n, float* y) {
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
    store_some(y + i, count, load_some(y + i, count) + load_some(x + i, count) * factor);
  });
}
void scaled(const float* x, float factor, std::int64_t n, float* y) {
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
    store_some(y + i, count, load_some(x + i, count) * factor);
  });
}

RowStatistics row_statistics(const float* logits, std::int64_t n, float inverse_temperature) {
  Floats highest = all(kLowest);
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
    const Floats z = count == kLanes ? load(logits + i) : load_part(logits + i, count, kLowest);
    highest = maximum(highest, z);
  });
  const float top = max_of(highest) * inverse_temperature;
  Floats sums{};
  Floats weighted{};
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
    const Floats z = load_some(logits + i, count) * inverse_temperature - top;
    Floats e = exponential(z);
    if (count != kLanes) {
      for (std::int64_t lane = count; lane < kLanes; ++lane) e[lane] = 0.0F;
    }
    sums += e;
    weighted += e * z;
  });
  return {top, sum_of(sums), sum_of(weighted)};
}
template <typename Y>
void row_exp_typed(const float* logits, std::int64_t n, float inverse_temperature, float top, float factor,
                   Y* y) {
  by_lanes(n, [&](std::int64_t i, std::int64_t count) {
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
