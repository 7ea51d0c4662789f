// SPDX-License-Identifier: Apache-2.0
// Whether numbers are numbers, as fast as they can be read.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "core/bf16.h"

namespace biqa {

/// No NaN and no infinity among them.
inline bool all_finite(std::span<const float> values) {
  std::uint32_t found = 0;
  for (const float value : values)
    found |= static_cast<std::uint32_t>((std::bit_cast<std::uint32_t>(value) & 0x7f800000U) == 0x7f800000U);
  return found == 0;
}
inline bool all_finite(std::span<const Bf16> values) {
  std::uint16_t found = 0;
  for (const Bf16 value : values)
    found = static_cast<std::uint16_t>(found | static_cast<std::uint16_t>((value.bits & 0x7f80U) == 0x7f80U));
  return found == 0;
}

}  // namespace biqa
