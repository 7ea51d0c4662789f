// SPDX-License-Identifier: Apache-2.0
// The emulator's side of ops/cuda/warp.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/bf16.h"
#include "cuda_emulation/block.h"

namespace biqa::emulation {

/// What a lane hands into mma: its parts of the matrices.
struct MmaLane {
  float* d;
  const std::uint32_t* a;
  std::uint32_t b_low, b_high;
};
/// Puts the lanes' parts together, multiplies in f32 with k ascending, and gives every lane its part of the result.
void run_mma(void* const* lanes);

inline void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b_low, std::uint32_t b_high) {
  static constexpr Collective kKind{"mma", &run_mma, true};
  MmaLane lane{d, a, b_low, b_high};
  warp_collective(kKind, &lane, ~0U);
}

/// What a lane hands into ldmatrix: room for its elements, and the row whose address it gives.
struct MatrixLane {
  std::uint32_t* elements;
  const std::uint16_t* row;
};
void run_ldmatrix(void* const* lanes);
void run_ldmatrix_transposed(void* const* lanes);

inline void ldmatrix(std::uint32_t (&r)[4], const void* row) {
  static constexpr Collective kKind{"ldmatrix", &run_ldmatrix, true};
  MatrixLane lane{r, static_cast<const std::uint16_t*>(row)};
  warp_collective(kKind, &lane, ~0U);
}
inline void ldmatrix_transposed(std::uint32_t (&r)[4], const void* row) {
  static constexpr Collective kKind{"ldmatrix_transposed", &run_ldmatrix_transposed, true};
  MatrixLane lane{r, static_cast<const std::uint16_t*>(row)};
  warp_collective(kKind, &lane, ~0U);
}

/// The target is NaN until the wait that covers the copy.
inline void copy_async(void* to, const void* from, bool there) {
  begin_copy(to, there ? from : nullptr);
}
inline void copy_commit() {
  commit_copies();
}
template <int kOpen>
void copy_wait() {
  land_copies(kOpen);
}

inline float exp2_fast(float x) {
  const float result = std::exp2(x);
  return result < std::numeric_limits<float>::min() ? 0.0F : result;
}
inline float fmadd(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline std::uint32_t pack_bf16(float low, float high) {
  return static_cast<std::uint32_t>(to_bf16(low).bits) | static_cast<std::uint32_t>(to_bf16(high).bits) << 16;
}

inline bool count_arrival(unsigned* counter, unsigned arrivals) {
  return arrive(counter, arrivals);
}

}  // namespace biqa::emulation
