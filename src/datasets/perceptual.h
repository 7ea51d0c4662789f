// SPDX-License-Identifier: Apache-2.0
// A short description of what an image shows, which resizing and recompression hardly change.
#pragma once

#include <array>
#include <cstdint>

#include "io/image.h"

namespace biqa {

struct Impression {
  static constexpr int kSide = 32;
  std::uint64_t hash = 0;
  std::array<float, kSide * kSide> grey{};  ///< small grey copy with mean 0 and sum of squares 1
  bool flat = false;                        ///< without contrast, so that it looks like any other flat image
};

/// The hash has a bit for each of 64 low frequencies of the small copy's cosine transform, as in pHash. The bit is 1 if
/// the frequency is above the median of all. The 64 are the lowest 8 x 8, with frequency (8, 8) in place of the mean.
Impression impression_of(const Image& image);

/// Bits in which two hashes differ.
int hash_distance(const Impression& a, const Impression& b);
/// Correlation of the small copies.
double correlation_of(const Impression& a, const Impression& b);

}  // namespace biqa
