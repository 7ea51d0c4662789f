// SPDX-License-Identifier: Apache-2.0
// The inner loop of the vector product. Like kernels_impl.h, this file is included once per instruction set. Vectors have
// the width of the hardware, so that the sums fit into its registers. Every sum adds the inner elements in order, so its
// bits do not depend on the numbers of rows and panels.

#include "ops/cpu/kernel_vectors_impl.h"
#include "ops/cpu/kernels.h"

namespace biqa::cpu::BIQA_KERNEL_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kProductRows = 12;
#else
constexpr int kProductRows = 6;
#endif
constexpr int kPanelColumns = 2 * kVectorLanes;

template <int kRows, int kPanels, typename W>
void panel_sums(const PanelProduct& p) {
  constexpr int kVectors = 2 * kPanels;
  FloatVector sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      __builtin_memcpy(&sums[r][v], p.sums + r * p.sums_stride + v * kVectorLanes, sizeof(FloatVector));
  }
  const W* weights = static_cast<const W*>(p.weights);
  const float* x = p.x;
  for (std::int64_t k = 0; k < p.inner; ++k) {
    FloatVector w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      w[v] = load_vector(weights + v / 2 * p.panel_stride + v % 2 * kVectorLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      // x − 0 has the bits of x. 0 + x would turn −0 into 0.
      const FloatVector value = x[r * p.x_stride] - FloatVector{};
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
      __builtin_memcpy(p.sums + r * p.sums_stride + v * kVectorLanes, &sums[r][v], sizeof(FloatVector));
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
