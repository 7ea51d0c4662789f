// SPDX-License-Identifier: Apache-2.0
// Not inline in the header: kernels for newer processors include it, and the linker could take their copy for all.
#include "ops/cpu/part.h"

#include <algorithm>

namespace biqa::cpu {

Part part_of(std::int64_t rows, std::int64_t band, std::int64_t columns, std::int64_t part,
             std::int64_t parts) {
  const auto divide_up = [](std::int64_t value, std::int64_t by) { return (value + by - 1) / by; };
  const std::int64_t bands = divide_up(rows, band);
  std::int64_t best = 1;  // parts of the rows
  std::int64_t least = bands * divide_up(columns, parts);
  for (std::int64_t row_parts = 2; row_parts <= std::min(parts, bands); ++row_parts) {
    if (parts % row_parts != 0) continue;
    const std::int64_t most = divide_up(bands, row_parts) * divide_up(columns, parts / row_parts);
    if (most * 10 > least * 9) continue;
    best = row_parts;
    least = most;
  }
  const std::int64_t column_parts = parts / best;
  const std::int64_t r = part / column_parts, c = part % column_parts;
  return {std::min(rows, bands * r / best * band), std::min(rows, bands * (r + 1) / best * band),
          columns * c / column_parts, columns * (c + 1) / column_parts};
}

}  // namespace biqa::cpu
