// SPDX-License-Identifier: Apache-2.0
#include "core/error.h"

#include <cstddef>
#include <cstdio>

namespace biqa {

std::string one_line(std::string_view text) {
  std::string line;
  line.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    if (byte == '\n') {
      line += "\\n";
    } else if (byte == '\r') {
      line += "\\r";
    } else if (byte == '\t') {
      line += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      line += fmt::format("\\x{:02x}", byte);
    } else if (byte == 0xC2 && next >= 0x80 && next <= 0x9F) {
      line += fmt::format("\\u{:04x}", next);  // UTF-8 of U+0080 to U+009F, which terminals obey too
      ++i;
    } else {
      line += text[i];
    }
  }
  return line;
}

void say_line(std::string_view text) {
  const bool ends = text.ends_with('\n');
  if (ends) text.remove_suffix(1);
  const std::string line = one_line(text) + (ends ? "\n" : "");
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

}  // namespace biqa
