// SPDX-License-Identifier: Apache-2.0
#include "io/json_lines.h"

#include <algorithm>

namespace biqa {

std::int64_t for_each_json_line(std::string_view content,
                                const std::function<void(std::int64_t number, std::string_view line)>& read) {
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < content.size();) {
    const std::size_t end = std::min(content.find('\n', begin), content.size());
    const std::string_view line = content.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r\v\f") != std::string_view::npos) read(number, line);
  }
  return number;
}

}  // namespace biqa
