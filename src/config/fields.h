// SPDX-License-Identifier: Apache-2.0
// The keys of the configuration as one table, and how a wrong value is refused. For this folder's own use.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "io/yaml.h"

namespace biqa {

/// One key: how it is read into its member and written from it.
struct Field {
  std::string section, key;
  std::function<void(const YamlNode&, const std::string& full)> read;
  std::function<std::string()> write;

  std::string full() const { return section.empty() ? key : section + "." + key; }
};

/// Every key over the members of `config`, in the order of docs/configuration.md. Relative paths are meant from `base`.
std::vector<Field> fields_of(Config& config, const std::filesystem::path& base);

/// Throws Error (usage): the value of `key` is not `expected` ("a whole number from 1 to 4096").
[[noreturn]] void refuse_value(const YamlNode& node, const std::string& key, const std::string& expected);
/// A value for messages: "'text'", "a list".
std::string shown(const YamlNode& node);
std::string joined(const std::vector<std::string>& words, std::string_view between = ", ");

}  // namespace biqa
