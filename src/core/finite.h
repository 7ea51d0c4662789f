// SPDX-License-Identifier: Apache-2.0
// Fast checks for NaN and infinity, nearly as fast as reading the values.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "core/bf16.h"

namespace biqa {
namespace finite_detail {

/// Reads the elements as 64-bit words. `exponent` has the exponent bits of all elements of a word, `lowest` only the
/// lowest exponent bit of each. Each word is masked with `exponent`, then `lowest` is added. The addition carries into
/// the sign bit of every element whose exponent bits are all set.
template <std::uint64_t exponent, std::uint64_t lowest, typename T>
bool all_finite(std::span<const T> values) {
  constexpr std::size_t kElements = sizeof(std::uint64_t) / sizeof(T);
  constexpr std::uint64_t kSigns = exponent + lowest;
  std::uint64_t found = 0;
  std::size_t i = 0;
  for (; i + kElements <= values.size(); i += kElements) {
    std::uint64_t word = 0;
    std::memcpy(&word, values.data() + i, sizeof word);
    found |= (word & exponent) + lowest;
  }
  std::uint64_t rest = 0;
  if (i < values.size()) std::memcpy(&rest, values.data() + i, (values.size() - i) * sizeof(T));
  found |= (rest & exponent) + lowest;
  return (found & kSigns) == 0;
}

}  // namespace finite_detail

/// Whether no value is NaN or infinite.
inline bool all_finite(std::span<const float> values) {
  return finite_detail::all_finite<0x7f8000007f800000U, 0x0080000000800000U>(values);
}
inline bool all_finite(std::span<const Bf16> values) {
  return finite_detail::all_finite<0x7f807f807f807f80U, 0x0080008000800080U>(values);
}

}  // namespace biqa
