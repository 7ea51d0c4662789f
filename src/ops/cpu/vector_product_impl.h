// SPDX-License-Identifier: Apache-2.0
// The inner loop of the vector product. Like kernels_impl.h, this file is included once per instruction set. Vectors have
// the width of the hardware, so that the sums fit into its registers. Every sum adds the inner elements in order, so its
// bits do not depend on the numbers of rows and panels.

#include "ops/cpu/kernels.h"

namespace biqa::cpu::BIQA_KERNEL_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorLanes = 16, kProductRows = 12;
#elif defined(__AVX2__)
constexpr int kVectorLanes = 8, kProductRows = 6;
#else
constexpr int kVectorLanes = 4, kProductRows = 6;
#endif
constexpr int kPanelColumns = 2 * kVectorLanes;

using Vector = float __attribute__((vector_size(kVectorLanes * 4)));
using WordVector = std::uint32_t __attribute__((vector_size(kVectorLanes * 4)));
using HalfVector = std::uint16_t __attribute__((vector_size(kVectorLanes * 2)));

inline __attribute__((always_inline)) Vector load_weights(const float* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline __attribute__((always_inline)) Vector load_weights(const std::uint16_t* p) {
  HalfVector s;
  __builtin_memcpy(&s, p, sizeof s);
  const WordVector w = __builtin_convertvector(s, WordVector) << 16;
  Vector v;
  __builtin_memcpy(&v, &w, sizeof v);
  return v;
}

template <int kRows, int kPanels, typename W>
void panel_sums(const PanelProduct& p) {
  constexpr int kVectors = 2 * kPanels;
  Vector sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      __builtin_memcpy(&sums[r][v], p.sums + r * p.sums_stride + v * kVectorLanes, sizeof(Vector));
  }
  const W* weights = static_cast<const W*>(p.weights);
  const float* x = p.x;
  for (std::int64_t k = 0; k < p.inner; ++k) {
    Vector w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      w[v] = load_weights(weights + v / 2 * p.panel_stride + v % 2 * kVectorLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      // x − 0 has the bits of x. 0 + x would turn −0 into 0.
      const Vector value = x[r * p.x_stride] - Vector{};
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] += value * w[v];
    }
    weights += kPanelColumns;
    ++x;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      __builtin_memcpy(p.sums + r * p.sums_stride + v * kVectorLanes, &sums[r][v], sizeof(Vector));
  }
}

template <typename W>
void panel_product_of(const PanelProduct& p) {
  // With few rows, several panels are multiplied at once, so that there are enough independent sums for the hardware.
  if (p.panels == 4) return panel_sums<1, 4, W>(p);
  if (p.panels == 2)
    return p.rows == 2   ? panel_sums<2, 2, W>(p)
           : p.rows == 1 ? panel_sums<1, 2, W>(p)
                         : panel_sums<3, 2, W>(p);
  switch (p.rows) {
    case 1:
      return panel_sums<1, 1, W>(p);
    case 2:
      return panel_sums<2, 1, W>(p);
    case 3:
      return panel_sums<3, 1, W>(p);
    case 4:
      return panel_sums<4, 1, W>(p);
    case 5:
      return panel_sums<5, 1, W>(p);
    case 6:
      return panel_sums<6, 1, W>(p);
#if defined(__AVX512F__)
    case 7:
      return panel_sums<7, 1, W>(p);
    case 8:
      return panel_sums<8, 1, W>(p);
    case 9:
      return panel_sums<9, 1, W>(p);
    case 10:
      return panel_sums<10, 1, W>(p);
    case 11:
      return panel_sums<11, 1, W>(p);
    default:
      return panel_sums<12, 1, W>(p);
#else
    default:
      return;
#endif
  }
}

void panel_product(const PanelProduct& p) {
  if (p.bf16)
    panel_product_of<std::uint16_t>(p);
  else
    panel_product_of<float>(p);
}

}  // namespace
}  // namespace biqa::cpu::BIQA_KERNEL_NAMESPACE
