// SPDX-License-Identifier: Apache-2.0
// Vectors for the inner loops (kernels_impl.h). They are the compiler's own type with 16 floats on every machine, so the order
// of each sum does not depend on the hardware.
#pragma once

#include <cstdint>

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

BIQA_INLINE Floats floats_of(Words w) {
  Floats v;
  __builtin_memcpy(&v, &w, sizeof v);
  return v;
}
BIQA_INLINE Floats load(const std::uint16_t* p) {
  Shorts s;
  __builtin_memcpy(&s, p, sizeof s);
  return floats_of(__builtin_convertvector(s, Words) << 16);
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

}  // namespace
}  // namespace biqa::cpu::BIQA_KERNEL_NAMESPACE
