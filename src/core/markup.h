// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace biqa {

/// `text` with the special characters of HTML and XML escaped, also those of quoted attributes. Control characters
/// other than line breaks and tabs are left out, because XML does not allow them in any form.
inline std::string escaped_markup(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else if ((byte >= 0x20 && byte != 0x7F) || c == '\n' || c == '\t')
      out += c;
  }
  return out;
}

}  // namespace biqa
