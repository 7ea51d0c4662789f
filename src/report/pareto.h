// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

namespace biqa {

/// Two figures of a configuration; more is better in both.
struct TwoFigures {
  double first = 0, second = 0;
};

/// For each: whether none of the others is at least as good in both figures and better in one. A value that is not finite
/// makes false, and takes no part in the comparison.
std::vector<bool> non_dominated(std::span<const TwoFigures> figures);

}  // namespace biqa
