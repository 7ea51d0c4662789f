// SPDX-License-Identifier: Apache-2.0
// CUDA's types of several elements, and functions of one thread. Part of the emulated cuda_runtime.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#define BIQA_EMULATED_VECTORS(element, name)                                  \
  struct alignas(2 * sizeof(element)) name##2 {                               \
    element x, y;                                                             \
  };                                                                          \
  struct alignas(4 * sizeof(element)) name##4 {                               \
    element x, y, z, w;                                                       \
  };                                                                          \
  inline name##2 make_##name##2(element x, element y) {                       \
    return {x, y};                                                            \
  }                                                                           \
  inline name##4 make_##name##4(element x, element y, element z, element w) { \
    return {x, y, z, w};                                                      \
  }
BIQA_EMULATED_VECTORS(float, float)
BIQA_EMULATED_VECTORS(int, int)
BIQA_EMULATED_VECTORS(unsigned, uint)
#undef BIQA_EMULATED_VECTORS

// Rounded once to nearest, and never contracted with what stands around them.
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fsqrt_rn(float a) {
  return std::sqrt(a);
}

inline unsigned __float_as_uint(float value) {
  return std::bit_cast<unsigned>(value);
}
inline float __uint_as_float(unsigned bits) {
  return std::bit_cast<float>(bits);
}
inline int __float_as_int(float value) {
  return std::bit_cast<int>(value);
}
inline float __int_as_float(int bits) {
  return std::bit_cast<float>(bits);
}

/// Adds and returns what was there before.
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
