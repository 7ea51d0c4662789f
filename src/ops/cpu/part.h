// SPDX-License-Identifier: Apache-2.0
// Divides a matrix product among threads.
#pragma once

#include <cstdint>

namespace biqa::cpu {

/// The rows and columns of the output that one thread computes. A column here is a block of columns, whose width the
/// caller decides.
struct Part {
  std::int64_t first_row, end_row, first_column, end_column;
};

/// Returns part `part` of `parts` of an output [rows, columns]. Normally only the columns are divided, so that each
/// weight is read by one thread. The rows are divided too, in bands of `band` rows, if this reduces the work of the
/// busiest thread by at least a tenth.
Part part_of(std::int64_t rows, std::int64_t band, std::int64_t columns, std::int64_t part,
             std::int64_t parts);

}  // namespace biqa::cpu
