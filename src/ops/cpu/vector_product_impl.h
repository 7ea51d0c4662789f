// SPDX-License-Identifier: Apache-2.0
// The inner loop of the vector product. Like kernels_impl.h, this file is included once per instruction set. Vectors have
// the width of the hardware, so that the sums fit into its registers. Every sum adds the inner elements in order, so its
// bits do not depend on the numbers of rows and panels.

#include "ops/cpu/kernel_vectors_impl.h"
#include "ops/cpu/kernels.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace biqa::cpu::BIQA_KERNEL_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kProductRows = 12;
#else
constexpr int kProductRows = 6;
#endif
constexpr int kPanelColumns = 2 * kVectorLanes;

// The address sanitizer looks at whole rows and panels before the product, because a look at each load would take half of
// the tests' time.
#ifdef __SANITIZE_ADDRESS__
#define BIQA_UNCHECKED_LOADS [[gnu::no_sanitize_address]]
void check_range(const void* begin, std::int64_t bytes) {
  const void* bad = __asan_region_is_poisoned(const_cast<void*>(begin), static_cast<std::size_t>(bytes));
  if (bad != nullptr) static_cast<void>(*static_cast<const volatile char*>(bad));
}
void check_product(const PanelProduct& p) {
  for (int r = 0; r < p.rows; ++r) {
    check_range(p.x + r * p.x_stride, p.inner * 4);
    check_range(p.sums + r * p.sums_stride, p.panels * kPanelColumns * 4);
  }
  const std::int64_t element = p.bf16 ? 2 : 4;
  for (int i = 0; i < p.panels; ++i)
    check_range(static_cast<const char*>(p.weights) + i * p.panel_stride * element,
                p.inner * kPanelColumns * element);
}
#else
#define BIQA_UNCHECKED_LOADS
void check_product(const PanelProduct& /*p*/) {}
#endif

template <int kRows, int kPanels, typename W>
BIQA_UNCHECKED_LOADS void panel_sums(const PanelProduct& p) {
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
  check_product(p);
  if (p.bf16)
    panel_product_of<std::uint16_t>(p);
  else
    panel_product_of<float>(p);
}

}  // namespace
}  // namespace biqa::cpu::BIQA_KERNEL_NAMESPACE
