// SPDX-License-Identifier: Apache-2.0
#include "model/positions.h"

#include <algorithm>

#include "core/error.h"

namespace biqa {

std::vector<Position> mrope_positions(const ModelConfig& config, std::span<const std::int64_t> ids,
                                      std::span<const Grid> grids, std::int32_t& next) {
  std::vector<Position> positions;
  positions.reserve(ids.size());
  std::int32_t current = 0;
  std::size_t image = 0;
  for (std::size_t i = 0; i < ids.size();) {
    if (ids[i] != config.image_token) {
      positions.push_back({current, current, current});
      ++current;
      ++i;
      continue;
    }
    if (image == grids.size()) {
      fail(
          "prompt has more image tokens than its {} images need (at token {}): remove literal image "
          "placeholders",
          grids.size(), i);
    }
    const auto rows = static_cast<std::int32_t>(grids[image][1] / config.vision.merge);
    const auto columns = static_cast<std::int32_t>(grids[image][2] / config.vision.merge);
    if (grids[image][0] != 1)
      fail("image {} of the prompt has {} frames: only still images are supported", image, grids[image][0]);
    for (std::int32_t y = 0; y < rows; ++y) {
      for (std::int32_t x = 0; x < columns; ++x, ++i) {
        if (i >= ids.size() || ids[i] != config.image_token) {
          fail("image {} of the prompt has too few placeholders: {} of {}", image, y * columns + x,
               rows * columns);
        }
        positions.push_back({current, current + y, current + x});
      }
    }
    current += std::max(rows, columns);
    ++image;
  }
  if (image != grids.size()) fail("prompt has placeholders for {} of its {} images", image, grids.size());
  next = current;
  return positions;
}

}  // namespace biqa
