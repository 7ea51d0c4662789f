// SPDX-License-Identifier: Apache-2.0
// Tables of text for people.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace biqa {

/// Number of characters in UTF-8.
inline std::size_t width_of(std::string_view text) {
  std::size_t width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U ? 1 : 0;
  return width;
}

/// Lines whose columns are as wide as their widest cell. The first `texts` columns are aligned to the left.
class Columns {
 public:
  Columns(std::vector<std::string> names, std::size_t texts) : lines_{std::move(names)}, texts_(texts) {}
  /// `cells`: at most as many as there are names
  void add(std::vector<std::string> cells) { lines_.push_back(std::move(cells)); }
  bool empty() const { return lines_.size() == 1; }

  std::string text() const {
    std::vector<std::size_t> widths(lines_.front().size(), 0);
    for (const auto& line : lines_) {
      for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], width_of(line[i]));
    }
    std::string out;
    for (const auto& line : lines_) {
      std::string text;
      for (std::size_t i = 0; i < line.size(); ++i) {
        const std::string padding(widths[i] - width_of(line[i]), ' ');
        text += i == 0 ? "" : "  ";
        text += i < texts_ ? line[i] + padding : padding + line[i];
      }
      text.erase(text.find_last_not_of(' ') + 1);
      out += text + "\n";
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> lines_;
  std::size_t texts_;
};

}  // namespace biqa
