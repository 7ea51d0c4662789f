// SPDX-License-Identifier: Apache-2.0
// The table of configuration keys, and Errors for wrong values. Private to this folder.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "io/yaml.h"

namespace biqa {

/// One key, with functions that read and write its member.
struct Field {
  std::string section, key;
  std::function<void(const YamlNode&, const std::string& full)> read;
  std::function<std::string()> write;

  std::string full() const { return section.empty() ? key : section + "." + key; }
};

/// Every key, bound to the members of `config`, in the order of docs/configuration.md. Relative paths start at the folder
/// of their YamlNode, except train.out, which starts at the working directory.
std::vector<Field> fields_of(Config& config);

/// Throws Error (usage): the value of `key` must be `expected` ("a whole number from 1 to 4096").
[[noreturn]] void refuse_value(const YamlNode& node, const std::string& key, const std::string& expected);
/// A value as shown in messages: "'text'", "a list".
std::string shown(const YamlNode& node);
std::string joined(const std::vector<std::string>& words, std::string_view between = ", ");

}  // namespace biqa
