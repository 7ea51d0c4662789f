// SPDX-License-Identifier: Apache-2.0
// The values of a configuration as one tree: the file, the bases that it names, and --set. Private to this folder.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "config/fields.h"
#include "io/yaml.h"

namespace biqa {

/// Reads `file` over the chain of its bases, then applies `overrides` ("a.b=value"). Sections are merged key by key; any
/// other value replaces the one of the base. The tree has no key `base`. Every node has the place and the folder of the file it
/// stands in; overrides have the folder of `file`. Throws Error (usage) with file:line for an unknown or repeated key.
/// Also throws it for a `base` that is no path of a file or does not exist, and for a chain of bases that is a cycle or
/// longer than 16 files.
YamlNode read_tree(const std::filesystem::path& file, std::span<const std::string> overrides);

/// Reads all values of the tree. Throws Error (usage) for a key that is not in the table and for a wrong value.
void read_values(const YamlNode& root, const std::vector<Field>& fields);

/// "section.old" as "section.now"; any other text as it is.
std::string with_new_name(const std::string& key);

}  // namespace biqa
