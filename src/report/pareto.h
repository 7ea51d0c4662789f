// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

namespace biqa {

/// Two figures of a configuration; more is better in both.
struct TwoFigures {
  double first = 0, second = 0;
};

/// For each entry: true if no other entry is at least as good in both figures and better in one. An entry with a value
/// that is not finite gets false and is not compared with the others.
std::vector<bool> non_dominated(std::span<const TwoFigures> figures);

}  // namespace biqa
