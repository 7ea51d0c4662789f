// SPDX-License-Identifier: Apache-2.0
// JSON read strictly: duplicate keys, deep nesting and bad UTF-8 are errors that name file, position and key.
// A .cpp file that uses this header includes <nlohmann/json.hpp> itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/files.h"

namespace biqa {

inline constexpr int kMaxJsonDepth = 64;
/// Values in one document. Limits the memory that a hostile text can use.
inline constexpr std::size_t kMaxJsonValues = std::size_t{16} << 20;

/// Parses one document; nothing may follow it. Every message begins with `where` (a file name).
nlohmann::json parse_json(std::string_view text, const std::string& where);
/// parse_json of a file.
nlohmann::json read_json(const std::filesystem::path& path, std::size_t max_bytes = kMaxTextFile);

/// The JSON text of a value. `indent`: spaces of a level; without it, the text is one line. Bytes that are not UTF-8, as in
/// some file names, become U+FFFD. Once per process, a warning shows the text where this happened.
std::string json_text(const nlohmann::json& value, int indent = -1);
std::string json_text(const nlohmann::ordered_json& value, int indent = -1);

/// The number, or null for NaN and infinity, which JSON does not have.
nlohmann::ordered_json number_or_null(double value);

/// A value as one short line for error messages.
std::string shown(const nlohmann::json& value);

/// Typed access to the fields of a JSON object. A field that is absent or null gives nullopt; one of another
/// type or range throws an Error naming file and key. Borrows the object.
class JsonFields {
 public:
  /// Throws Error unless `object` is an object. `path`: prefix of its keys in messages ("text_config.").
  JsonFields(const nlohmann::json& object, std::string where, std::string path = "");

  /// The value; nullptr if it is absent or null.
  const nlohmann::json* find(const std::string& key) const;
  bool has(const std::string& key) const { return find(key) != nullptr; }
  std::optional<std::int64_t> integer(const std::string& key,
                                      std::int64_t least = std::numeric_limits<std::int64_t>::min(),
                                      std::int64_t most = std::numeric_limits<std::int64_t>::max()) const;
  /// Any finite JSON number.
  std::optional<double> number(const std::string& key) const;
  std::optional<bool> boolean(const std::string& key) const;
  std::optional<std::string> text(const std::string& key) const;
  /// A text, or a number as it is written in JSON.
  std::optional<std::string> label(const std::string& key) const;
  std::optional<std::vector<std::int64_t>> integers(const std::string& key) const;
  std::optional<std::vector<std::string>> texts(const std::string& key) const;
  std::optional<JsonFields> object(const std::string& key) const;

  /// Throws: the field is missing.
  [[noreturn]] void missing(const std::string& key) const;
  /// Throws: the field's value is not what was expected.
  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const;
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json* object_;
  std::string where_, path_;
};

}  // namespace biqa
