// SPDX-License-Identifier: Apache-2.0
// Reads YAML into a small tree. Each value knows its file and line, so that later errors can name them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace biqa {

enum class YamlKind : std::uint8_t { null, scalar, list, map };

/// One value. Scalars are stored as text; the reader decides their type.
struct YamlNode {
  YamlKind kind = YamlKind::null;
  std::string key;      ///< in a map: this entry's key; otherwise empty
  std::string text;     ///< of a scalar
  bool quoted = false;  ///< "…" or '…': always text, never null, a number or a boolean
  std::string where;    ///< "FILE:LINE" of the key or, without one, of the value
  std::filesystem::path
      folder;  ///< where relative paths in this value start; empty unless the reader sets it
  std::vector<YamlNode> children;  ///< of a list or a map, in the order of the file

  /// The entry with this key, or nullptr.
  const YamlNode* find(std::string_view name) const;
  YamlNode* find(std::string_view name);
};

/// The value of a plain scalar in the core schema of YAML 1.2; nothing if it is not a boolean or is quoted. Booleans
/// are true, True, TRUE, false, False, FALSE; yes, no, on and off are text.
std::optional<bool> yaml_boolean(const YamlNode& node);
/// A decimal number, 0x1F, 0o17, or .inf, -.inf and .nan in their three spellings; not 1_000. Nothing if a double
/// cannot represent it (1e400, 1e-400).
std::optional<double> yaml_number(const YamlNode& node);
/// As yaml_number, for whole numbers. 1e3 and 4.0 are accepted up to 2^53; larger numbers only as plain digits.
std::optional<std::int64_t> yaml_integer(const YamlNode& node);

/// Parses one YAML document. `name`: the file name in `where`. An empty document is a null. Throws Error (usage) with
/// `name:line` on a syntax error, a duplicate key, a key that is no plain text, a second document, or more than 100,000
/// values after aliases are expanded.
YamlNode parse_yaml(const std::string& text, const std::string& name);

/// Reads and parses a file of at most 4 MiB. Throws Error if it cannot be read.
YamlNode read_yaml(const std::filesystem::path& file);

/// `text` as a YAML scalar that is read as the same text (quoted if necessary).
std::string yaml_quoted(std::string_view text);

}  // namespace biqa
