// SPDX-License-Identifier: Apache-2.0
// Distortions in five levels, with the mean human score of each in KADID-10k. tools/make_assets/distortions.py, which
// made the images of assets/tiny, has the same kinds and strengths.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/random.h"
#include "io/image.h"

namespace biqa {

inline constexpr int kLevels = 5;

struct Distortion {
  std::string_view name;
  int kadid_type;                        ///< number in KADID-10k
  std::array<double, kLevels> strength;  ///< level 1 to 5
  std::array<double, kLevels> score;     ///< mean over KADID-10k's 81 references, 1 to 5, higher is better
  Image (*apply)(const Image&, double strength, const RandomStream& random);
};

/// Eleven kinds.
std::span<const Distortion> distortions();

/// The score of an image without distortion.
inline constexpr double kCleanScore = 4.75;

}  // namespace biqa
