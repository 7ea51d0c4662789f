// SPDX-License-Identifier: Apache-2.0
#include "ops/rotary.h"

#include <algorithm>
#include <cmath>

namespace biqa {

RotaryTable::RotaryTable(std::int64_t head_dim, double theta, const std::array<std::int64_t, 3>& section)
    : half_(head_dim / 2) {
  for (std::int64_t j = 0; j < half_; ++j) {
    frequencies_.push_back(static_cast<float>(
        1.0 / std::pow(theta, 2.0 * static_cast<double>(j) / static_cast<double>(head_dim))));
  }
  for (std::size_t axis = 0; axis < 3; ++axis)
    axes_.insert(axes_.end(), static_cast<std::size_t>(section[axis]), axis);
}

void RotaryTable::fill(std::span<const Position> positions, View cosines, View sines) {
  std::int32_t highest = 0;
  for (const Position& p : positions) highest = std::max(highest, *std::max_element(p.begin(), p.end()));
  grow(highest);
  for (std::size_t r = 0; r < positions.size(); ++r) {
    float* c = cosines.row<float>(static_cast<std::int64_t>(r));
    float* s = sines.row<float>(static_cast<std::int64_t>(r));
    for (std::int64_t j = 0; j < half_; ++j) {
      const auto at = static_cast<std::size_t>(positions[r][axes_[static_cast<std::size_t>(j)]] * half_ + j);
      c[j] = cosines_[at];
      s[j] = sines_[at];
    }
  }
}

void RotaryTable::grow(std::int32_t highest) {
  auto have = static_cast<std::int64_t>(cosines_.size()) / half_;
  for (; have <= highest; ++have) {
    for (std::int64_t j = 0; j < half_; ++j) {
      const float angle = static_cast<float>(have) * frequencies_[static_cast<std::size_t>(j)];
      // In f64, because mathematical libraries differ in the last bit of an f32 sine.
      cosines_.push_back(static_cast<float>(std::cos(static_cast<double>(angle))));
      sines_.push_back(static_cast<float>(std::sin(static_cast<double>(angle))));
    }
  }
}

}  // namespace biqa
