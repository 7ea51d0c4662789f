// SPDX-License-Identifier: Apache-2.0
// bfloat16 and half as storage types. Arithmetic is always in float.
#pragma once

#include <bit>
#include <cstdint>

#include "core/host_device.h"

namespace biqa {

struct Bf16 {
  std::uint16_t bits = 0;
};

/// Nearest bfloat16, ties to even; a NaN stays a (quiet) NaN.
BIQA_HOST_DEVICE inline Bf16 to_bf16(float value) {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return Bf16{static_cast<std::uint16_t>((bits >> 16) | 0x40U)};
  return Bf16{static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

BIQA_HOST_DEVICE inline float to_float(Bf16 value) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(value.bits) << 16);
}

/// Exact value of an IEEE binary16 given by its bits.
inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fU;
  std::uint32_t mantissa = half & 0x3ffU;
  if (exponent == 0x1fU) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
  if (mantissa == 0) return std::bit_cast<float>(sign);
  std::uint32_t shift = 0;
  while ((mantissa & 0x400U) == 0) {
    mantissa <<= 1;
    ++shift;
  }
  return std::bit_cast<float>(sign | ((113U - shift) << 23) | ((mantissa & 0x3ffU) << 13));
}

/// Bits of the nearest IEEE binary16, ties to even. Infinity if out of range; a NaN stays a (quiet) NaN.
inline std::uint16_t to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
  if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // 65520 and more
  std::uint32_t half = 0, rest = 0, middle = 0;
  if (magnitude >= 0x38800000U) {  // normal from 2^-14 on
    half = (magnitude - 0x38000000U) >> 13;
    rest = magnitude & 0x1fffU;
    middle = 0x1000U;
  } else {
    const std::uint32_t shift = 126U - (magnitude >> 23);  // of the significand, to units of 2^-24
    if (shift > 24U) return sign;                          // below 2^-25
    const std::uint32_t significand = (magnitude & 0x7fffffU) | 0x800000U;
    half = significand >> shift;
    rest = significand & ((1U << shift) - 1U);
    middle = 1U << (shift - 1U);
  }
  if (rest > middle || (rest == middle && (half & 1U) != 0)) ++half;
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace biqa
