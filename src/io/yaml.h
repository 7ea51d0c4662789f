// SPDX-License-Identifier: Apache-2.0
// YAML read into a small tree that knows where each value stands, so that a later error can name file and line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
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

/// The value of a plain scalar by the core schema of YAML 1.2; nothing where it is not one, and of quoted text. A
/// boolean is true, True, TRUE or their opposites; yes, no, on and off are text.
std::optional<bool> yaml_boolean(const YamlNode& node);
/// A decimal number, 0x1F, 0o17, or .inf, -.inf and .nan in their three spellings; not 1_000. What a double cannot hold
/// (1e400, 1e-400) is nothing.
std::optional<double> yaml_number(const YamlNode& node);
/// The same where it is whole: 1e3 and 4.0 too, up to 2^53, beyond it only the digits themselves.
std::optional<std::int64_t> yaml_integer(const YamlNode& node);

/// Parses one YAML document; `name` is what `where` calls it. An empty document is a null.
/// Throws Error (usage) with `name:line` on a syntax error, a duplicate key, a key that is no plain text, a
/// second document, or more than 100,000 values once aliases are followed.
YamlNode parse_yaml(const std::string& text, const std::string& name);

/// Reads and parses a file of at most 4 MiB. Throws Error when it cannot be read.
YamlNode read_yaml(const std::filesystem::path& file);

/// `text` as a YAML scalar that reads back as the same text (quoted where needed).
std::string yaml_quoted(std::string_view text);

}  // namespace biqa
