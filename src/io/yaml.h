// SPDX-License-Identifier: Apache-2.0
// YAML read into a small tree that knows where each value stands, so that a later error can name file and line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace biqa {

enum class YamlKind : std::uint8_t { null, scalar, list, map };

/// One value. Scalars stay text; their type is decided by whoever reads them.
struct YamlNode {
  YamlKind kind = YamlKind::null;
  std::string key;                 ///< in a map: this entry's key; else empty
  std::string text;                ///< of a scalar
  bool quoted = false;             ///< "…" or '…': text that is never null, a number or a boolean
  std::string where;               ///< "FILE:LINE" of the key or, without one, of the value
  std::vector<YamlNode> children;  ///< of a list or a map, in the order of the file

  /// The entry of that key, or nullptr.
  const YamlNode* find(std::string_view name) const;
  YamlNode* find(std::string_view name);
};

/// Parses one YAML document; `name` is what `where` calls it. An empty document is a null.
/// Throws Error (usage) with `name:line` on a syntax error, a duplicate key, a key that is no plain text, a
/// second document, or more than 100,000 values once aliases are followed.
YamlNode parse_yaml(const std::string& text, const std::string& name);

/// Reads and parses a file of at most 4 MiB. Throws Error when it cannot be read.
YamlNode read_yaml(const std::filesystem::path& file);

/// `text` as a YAML scalar that reads back as the same text (quoted where needed).
std::string yaml_quoted(std::string_view text);

}  // namespace biqa
