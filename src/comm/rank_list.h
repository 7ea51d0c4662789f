// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace biqa {

/// Ranks for a message: "rank 3", "ranks 1, 2, 5", or the first eight "and 4 more".
std::string list_ranks(const std::vector<int>& ranks);

}  // namespace biqa
