// SPDX-License-Identifier: Apache-2.0
#include "report/pareto.h"

#include <algorithm>
#include <cmath>

namespace biqa {
namespace {

bool is_measured(const TwoFigures& f) {
  return std::isfinite(f.first) && std::isfinite(f.second);
}

bool dominates(const TwoFigures& a, const TwoFigures& b) {
  return a.first >= b.first && a.second >= b.second && (a.first > b.first || a.second > b.second);
}

}  // namespace

std::vector<bool> non_dominated(std::span<const TwoFigures> figures) {
  std::vector<bool> result;
  result.reserve(figures.size());
  for (const TwoFigures& one : figures) {
    result.push_back(is_measured(one) &&
                     std::none_of(figures.begin(), figures.end(), [&](const TwoFigures& other) {
                       return is_measured(other) && dominates(other, one);
                     }));
  }
  return result;
}

}  // namespace biqa
