// SPDX-License-Identifier: Apache-2.0
#include "config/tree.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBaseKey = "base";
constexpr std::size_t kMostFiles = 16;

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t change = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, change});
    }
  }
  return row[b.size()];
}

std::string_view last_part(std::string_view key) {
  return key.substr(key.find_last_of('.') + 1);
}

[[noreturn]] void refuse_unknown(const YamlNode& node, const std::string& full,
                                 const std::vector<Field>& fields) {
  std::vector<std::string> candidates, siblings;
  const std::string section = full.substr(0, full.find('.'));
  for (const Field& field : fields) {
    if (candidates.empty() || candidates.back().rfind(field.section + ".", 0) != 0) {
      if (!field.section.empty()) candidates.push_back(field.section);
    }
    candidates.push_back(field.full());
    if (field.section == section) siblings.push_back(field.key);
  }
  if (last_part(full) == full) candidates.emplace_back(kBaseKey);
  // A known name in a wrong section counts as distance 1.
  const auto distance = [&](const std::string& candidate) {
    return std::min(edit_distance(full, candidate), edit_distance(last_part(full), last_part(candidate)) + 1);
  };
  const std::string& nearest =
      *std::min_element(candidates.begin(), candidates.end(),
                        [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
  if (siblings.empty()) {
    for (const Field& field : fields) {
      const std::string& name = field.section.empty() ? field.key : field.section;
      if (siblings.empty() || siblings.back() != name) siblings.push_back(name);
    }
    siblings.emplace_back(kBaseKey);
    fail_usage("unknown key {} at {}: the nearest is {}; rename or remove it (keys: {})", full, node.where,
               nearest, joined(siblings));
  }
  fail_usage("unknown key {} at {}: the nearest is {}; rename or remove it (keys of {}: {})", full,
             node.where, nearest, section, joined(siblings));
}

// `where`: empty keeps the nodes' own places.
void set_place(YamlNode& node, const std::string& where, const fs::path& folder) {
  if (!where.empty()) node.where = where;
  node.folder = folder;
  for (YamlNode& child : node.children) set_place(child, where, folder);
}

YamlNode& child_of(YamlNode& map, const std::string& key, const std::string& where) {
  if (map.kind != YamlKind::map) {
    map.kind = YamlKind::map;
    map.children.clear();
  }
  if (YamlNode* child = map.find(key)) return *child;
  YamlNode child;
  child.key = key;
  child.where = where;
  map.children.push_back(std::move(child));
  return map.children.back();
}

// Keys that have another name now. The old one still works.
struct OldName {
  std::string_view section, old, now;
};
constexpr std::array kOldNames{OldName{"rollout", "max_policy_lag", "policy_lag"}};

void rename_old_keys(YamlNode& root) {
  for (const OldName& name : kOldNames) {
    YamlNode* section = root.find(name.section);
    YamlNode* node = section == nullptr ? nullptr : section->find(name.old);
    if (node == nullptr) continue;
    if (section->find(name.now) != nullptr) {
      fail_usage("cannot use {}.{} at {}: it is the old name of {}, which is also set; remove it",
                 name.section, name.old, node->where, name.now);
    }
    node->key = name.now;
  }
}

void apply_override(YamlNode& root, const std::string& text, const fs::path& folder) {
  const std::size_t equals = text.find('=');
  const std::string key = with_new_name(text.substr(0, equals));
  if (equals == std::string::npos || key.empty() || key.front() == '.' || key.back() == '.') {
    fail_usage("cannot use --set {}: it is not KEY=VALUE; write for example --set optimizer.lr=1e-5", text);
  }
  if (key == kBaseKey) {
    fail_usage("cannot use --set {}: only a file can name its base; write a file that begins with `base: …`",
               text);
  }
  const std::string where = "--set " + key;
  YamlNode value = parse_yaml(text.substr(equals + 1), where);
  YamlNode* node = &root;
  for (std::size_t begin = 0; begin <= key.size();) {
    const std::size_t end = std::min(key.find('.', begin), key.size());
    node = &child_of(*node, key.substr(begin, end - begin), where);
    begin = end + 1;
  }
  value.key = node->key;
  set_place(value, where, folder);
  *node = std::move(value);
}

// Throws Error (usage) for a key that is not in the table, and for a value in the place of a section.
void check_keys(const YamlNode& root, const std::vector<Field>& fields) {
  if (root.kind == YamlKind::null) return;
  if (root.kind != YamlKind::map) {
    fail_usage(
        "cannot use configuration {}: it is {} where sections such as `model:` should be; see "
        "docs/configuration.md",
        root.where, shown(root));
  }
  const auto known = [&](std::string_view section, std::string_view key) {
    return std::any_of(fields.begin(), fields.end(),
                       [&](const Field& f) { return f.section == section && (key.empty() || f.key == key); });
  };
  for (const YamlNode& node : root.children) {
    if (known("", node.key) && !node.key.empty()) continue;
    if (node.key.empty() || !known(node.key, "")) refuse_unknown(node, node.key, fields);
    if (node.kind == YamlKind::null) continue;
    if (node.key == "objective" && node.kind == YamlKind::scalar) continue;
    if (node.kind != YamlKind::map) refuse_value(node, node.key, "a section of `key: value` lines");
    for (const YamlNode& child : node.children) {
      if (child.key.empty() || !known(node.key, child.key))
        refuse_unknown(child, node.key + "." + child.key, fields);
    }
  }
}

// Every section becomes a map: an empty one, and `objective: sft`, which is short for `objective: {loss: sft}`.
void expand_sections(YamlNode& root, const std::vector<Field>& fields) {
  for (const Field& field : fields) {
    YamlNode* section = field.section.empty() ? nullptr : root.find(field.section);
    if (section == nullptr || section->kind == YamlKind::map) continue;
    if (section->kind == YamlKind::scalar) {
      YamlNode loss = *section;
      loss.key = "loss";
      section->children = {std::move(loss)};
    }
    section->kind = YamlKind::map;
  }
}

// Removes the key `base` and returns the file that it names.
std::optional<fs::path> take_base(YamlNode& root, const std::vector<fs::path>& chain) {
  const YamlNode* node = root.find(kBaseKey);
  if (node == nullptr) return std::nullopt;
  if (node->kind != YamlKind::scalar || node->text.empty())
    refuse_value(*node, kBaseKey, "the path of a configuration file");
  fs::path base = (chain.back().parent_path() / node->text).lexically_normal();
  std::error_code unknown;
  if (!fs::exists(base, unknown)) {
    fail_usage(
        "cannot use base at {}: there is no file {}; correct the path (it starts at the folder of the file "
        "that names it)",
        node->where, base.string());
  }
  std::vector<std::string> names;
  names.reserve(chain.size() + 1);
  for (const fs::path& file : chain) names.push_back(file.string());
  names.push_back(base.string());
  for (const fs::path& file : chain) {
    if (fs::equivalent(file, base, unknown)) {
      fail_usage("cannot use base at {}: the bases are a cycle, {}; remove one of them", node->where,
                 joined(names, " → "));
    }
  }
  if (names.size() > kMostFiles) {
    fail_usage("cannot use base at {}: more than {} files, {}; write fewer", node->where, kMostFiles,
               joined(names, " → "));
  }
  std::erase_if(root.children, [](const YamlNode& child) { return child.key == kBaseKey; });
  return base;
}

constexpr int kMergedLevels = 2;  // sections, and their keys

// Sections are merged key by key. Values are replaced, also those that are maps, such as the schedule of a weight.
void merge(YamlNode& onto, YamlNode&& from, int levels = kMergedLevels) {
  if (levels == 0 || onto.kind != YamlKind::map || from.kind != YamlKind::map) {
    onto = std::move(from);
    return;
  }
  onto.where = from.where;
  for (YamlNode& child : from.children) {
    if (YamlNode* const there = onto.find(child.key))
      merge(*there, std::move(child), levels - 1);
    else
      onto.children.push_back(std::move(child));
  }
}

// `chain`: the file to read, behind the files that it is a base of.
YamlNode read_file_and_bases(std::vector<fs::path>& chain, const std::vector<Field>& fields) {
  YamlNode root = read_yaml(chain.back());
  set_place(root, "", fs::absolute(chain.back()).lexically_normal().parent_path());
  rename_old_keys(root);
  const std::optional<fs::path> base = take_base(root, chain);
  check_keys(root, fields);
  expand_sections(root, fields);
  if (!base) return root;
  chain.push_back(*base);
  YamlNode merged = read_file_and_bases(chain, fields);
  // Also finds a wrong value that `root` replaces.
  read_values(merged, fields);
  if (merged.kind == YamlKind::null) return root;
  if (root.kind != YamlKind::null) merge(merged, std::move(root));
  return merged;
}

}  // namespace

YamlNode read_tree(const fs::path& file, std::span<const std::string> overrides) {
  Config ignored;
  const std::vector<Field> fields = fields_of(ignored);
  std::vector<fs::path> chain{file};
  YamlNode root = read_file_and_bases(chain, fields);
  for (const std::string& text : overrides)
    apply_override(root, text, fs::absolute(file).lexically_normal().parent_path());
  check_keys(root, fields);
  expand_sections(root, fields);
  return root;
}

void read_values(const YamlNode& root, const std::vector<Field>& fields) {
  for (const Field& field : fields) {
    const YamlNode* section = field.section.empty() ? &root : root.find(field.section);
    const YamlNode* node = section == nullptr ? nullptr : section->find(field.key);
    if (node != nullptr) field.read(*node, field.full());
  }
}

std::string with_new_name(const std::string& key) {
  for (const OldName& name : kOldNames) {
    if (key == fmt::format("{}.{}", name.section, name.old))
      return fmt::format("{}.{}", name.section, name.now);
  }
  return key;
}

}  // namespace biqa
