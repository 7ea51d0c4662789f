// SPDX-License-Identifier: Apache-2.0
// How a product is divided among threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace biqa::cpu {

/// Some rows and some columns of a product's output; columns in the caller's blocks.
struct Part {
  std::int64_t first_row, end_row, first_column, end_column;
};

/// Part `part` of `parts` of [rows, columns]; rows are divided in bands of `band`. Columns are divided where there are
/// enough of them, so that each weight is read by one thread; else rows.
inline Part part_of(std::int64_t rows, std::int64_t band, std::int64_t columns, std::int64_t part,
                    std::int64_t parts) {
  const std::int64_t bands = (rows + band - 1) / band;
  if (columns >= 2 * parts || bands < parts)
    return {0, rows, columns * part / parts, columns * (part + 1) / parts};
  return {std::min(rows, bands * part / parts * band), std::min(rows, bands * (part + 1) / parts * band), 0,
          columns};
}

}  // namespace biqa::cpu
