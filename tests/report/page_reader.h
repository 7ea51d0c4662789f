// SPDX-License-Identifier: Apache-2.0
// What the tests ask of every page.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace biqa::testing {

/// The values of all attributes with this name.
inline std::vector<std::string> attributes(const std::string& html, const std::string& name) {
  std::vector<std::string> values;
  const std::string begin = " " + name + "=\"";
  for (std::size_t at = html.find(begin); at != std::string::npos; at = html.find(begin, at + 1)) {
    const std::size_t from = at + begin.size();
    values.push_back(html.substr(from, html.find('"', from) - from));
  }
  return values;
}

/// Nothing of the page leads out of it: links lead to its own parts, pictures are data, styles name no file.
inline void expect_self_contained(const std::string& html) {
  std::set<std::string> ids;
  for (const std::string& id : attributes(html, "id")) EXPECT_TRUE(ids.insert(id).second) << id << " twice";
  for (const std::string& link : attributes(html, "href")) {
    EXPECT_TRUE(link.starts_with("data:") || (link.starts_with("#") && ids.contains(link.substr(1)))) << link;
  }
  for (const std::string& source : attributes(html, "src"))
    EXPECT_TRUE(source.starts_with("data:image/jpeg;base64,")) << source.substr(0, 60);
  for (const char* name : {"srcset", "action", "data", "poster", "formaction", "background", "xlink:href"})
    EXPECT_TRUE(attributes(html, name).empty()) << name;
  for (const char* part :
       {"<script", "<iframe", "<object", "<embed", "<base", "@import", "url(", " onload", " onerror=\""})
    EXPECT_EQ(html.find(part), std::string::npos) << part;
  EXPECT_NE(html.find("default-src 'none'"), std::string::npos);
}

/// Every element that is opened is closed, in order.
inline void expect_well_formed(const std::string& html) {
  const std::set<std::string> kVoid{"!DOCTYPE", "meta", "link", "img"};
  std::vector<std::string> open;
  for (std::size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const std::size_t end = html.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const bool closing = html[at + 1] == '/';
    const std::size_t name = at + (closing ? 2 : 1);
    const std::string tag = html.substr(name, html.find_first_of(" />", name) - name);
    if (kVoid.contains(tag)) continue;
    if (closing) {
      ASSERT_FALSE(open.empty()) << tag;
      ASSERT_EQ(open.back(), tag) << html.substr(at > 200 ? at - 200 : 0, 260);
      open.pop_back();
    } else if (html[end - 1] != '/') {
      open.push_back(tag);
    }
  }
  EXPECT_TRUE(open.empty()) << open.back();
}

/// The texts of the cells of the table with this caption, row by row; empty without such a table.
inline std::vector<std::vector<std::string>> table_rows(const std::string& html, const std::string& caption) {
  std::vector<std::vector<std::string>> rows;
  const std::size_t at = html.find("<caption>" + caption + "</caption>");
  if (at == std::string::npos) return rows;
  const std::string table = html.substr(at, html.find("</table>", at) - at);
  static const std::regex kRow("<tr>(.*?)</tr>"), kCell("<t[hd][^>]*>(.*?)</t[hd]>"), kTag("<[^>]*>");
  for (std::sregex_iterator row(table.begin(), table.end(), kRow), end; row != end; ++row) {
    const std::string content = (*row)[1];
    rows.emplace_back();
    for (std::sregex_iterator cell(content.begin(), content.end(), kCell); cell != end; ++cell)
      rows.back().push_back(std::regex_replace((*cell)[1].str(), kTag, ""));
  }
  return rows;
}

}  // namespace biqa::testing
