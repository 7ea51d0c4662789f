// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

namespace biqa::cpu {

/// Rows and bytes of a row of the eight tile registers. 0: not used.
struct TileShapes {
  std::array<std::int64_t, 8> rows{}, bytes{};
  void set(int tile, std::int64_t row_count, std::int64_t row_bytes) {
    rows[static_cast<std::size_t>(tile)] = row_count;
    bytes[static_cast<std::size_t>(tile)] = row_count > 0 ? row_bytes : 0;
  }
};

}  // namespace biqa::cpu
