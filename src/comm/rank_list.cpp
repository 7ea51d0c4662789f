// SPDX-License-Identifier: Apache-2.0
#include "comm/rank_list.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>

namespace biqa {

std::string list_ranks(const std::vector<int>& ranks) {
  constexpr std::size_t kShown = 8;
  const std::span shown = std::span(ranks).first(std::min(ranks.size(), kShown));
  std::string text = fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(shown, ", "));
  if (ranks.size() > kShown) text += fmt::format(" and {} more", ranks.size() - kShown);
  return text;
}

}  // namespace biqa
