// SPDX-License-Identifier: Apache-2.0
#include "config/config.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <sstream>
#include <string_view>
#include <utility>

#include "config/fields.h"
#include "core/error.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

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
    fail_usage("unknown key {} at {}: the nearest is {}; rename or remove it (keys: {})", full, node.where,
               nearest, joined(siblings));
  }
  fail_usage("unknown key {} at {}: the nearest is {}; rename or remove it (keys of {}: {})", full,
             node.where, nearest, section, joined(siblings));
}

void set_where(YamlNode& node, const std::string& where) {
  node.where = where;
  for (YamlNode& child : node.children) set_where(child, where);
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

// "section.old" as "section.now"; any other text as it is.
std::string with_new_name(const std::string& key) {
  for (const OldName& name : kOldNames) {
    if (key == fmt::format("{}.{}", name.section, name.old))
      return fmt::format("{}.{}", name.section, name.now);
  }
  return key;
}

void apply_override(YamlNode& root, const std::string& text) {
  const std::size_t equals = text.find('=');
  const std::string key = with_new_name(text.substr(0, equals));
  if (equals == std::string::npos || key.empty() || key.front() == '.' || key.back() == '.') {
    fail_usage("cannot use --set {}: it is not KEY=VALUE; write for example --set optimizer.lr=1e-5", text);
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
  set_where(value, where);
  *node = std::move(value);
}

// Reads all values of the tree. Throws Error (usage) for a key that is not in the table.
void read_tree(const YamlNode& root, const std::vector<Field>& fields) {
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
    if (node.kind != YamlKind::map) refuse_value(node, node.key, "a section of `key: value` lines");
    for (const YamlNode& child : node.children) {
      if (child.key.empty() || !known(node.key, child.key))
        refuse_unknown(child, node.key + "." + child.key, fields);
    }
  }
  for (const Field& field : fields) {
    const YamlNode* section = field.section.empty() ? &root : root.find(field.section);
    const YamlNode* node = section == nullptr ? nullptr : section->find(field.key);
    if (node != nullptr) field.read(*node, field.full());
  }
}

// Sets the loss's own defaults (LossRow). Values in the configuration are kept.
void set_defaults_of_loss(ObjectiveSettings& objective, const YamlNode& root) {
  const YamlNode* section = root.find("objective");
  const auto given = [&](std::string_view key) {
    return section != nullptr && section->find(key) != nullptr;
  };
  const LossRow& loss = row_of(objective.loss.loss);
  if (!given("clip_high")) objective.loss.clip_high = loss.clip_high;
  if (!given("drop_zero_variance")) objective.drop_zero_variance = loss.drop_zero_variance;
  if (!given("mask_truncated")) objective.mask_truncated = loss.mask_truncated;
}

// Checks settings that are valid alone, but not together.
void check_together(const Config& c, const YamlNode& root) {
  const auto where = [&](std::string_view section, std::string_view key) {
    const YamlNode* parent = root.find(section);
    const YamlNode* node = parent == nullptr ? nullptr : parent->find(key);
    return node != nullptr ? node->where : "default value";
  };
  if (c.model.min_pixels > c.model.max_pixels) {
    fail_usage(
        "cannot use model.min_pixels at {}: {} is more than model.max_pixels, {} at {}; lower min_pixels or "
        "raise max_pixels",
        where("model", "min_pixels"), c.model.min_pixels, c.model.max_pixels, where("model", "max_pixels"));
  }
  if (!row_of(c.objective.loss.loss).imitates && c.rollout.group_size < 2) {
    fail_usage(
        "cannot use rollout.group_size at {}: a group of one cannot be compared; give at least 2, or "
        "objective.loss: sft",
        where("rollout", "group_size"));
  }
  if (c.stage2.enabled && c.prompts.texts.profile.caption_tag.empty()) {
    fail_usage(
        "cannot use prompts.profile at {}: the completions of {} have no caption for the second stage; set "
        "stage2.enabled: false",
        where("prompts", "profile"), c.prompts.profile);
  }
  if (c.stage2.enabled && c.prompts.texts.stage2_user.find(kCaptionField) == std::string::npos) {
    fail_usage(
        "cannot use prompts.stage2_user at {}: it does not contain {}; write {} where the caption belongs",
        where("prompts", "stage2_user"), kCaptionField, kCaptionField);
  }
  if (c.roles.colocated && !c.roles.automatic) {
    const YamlNode* roles = root.find("roles");
    fail_usage(
        "cannot use roles at {}: with placement: colocated every rank has every role; set roles: auto or "
        "placement: split",
        roles != nullptr ? roles->where : "default value");
  }
}

}  // namespace

Config load_config(const fs::path& file, std::span<const std::string> overrides) {
  YamlNode root = read_yaml(file);
  rename_old_keys(root);
  for (const std::string& text : overrides) apply_override(root, text);
  // `objective: sft` is short for `objective: {loss: sft}`.
  YamlNode* objective = root.find("objective");
  if (objective != nullptr && objective->kind == YamlKind::scalar) {
    YamlNode loss = *objective;
    loss.key = "loss";
    objective->kind = YamlKind::map;
    objective->children = {std::move(loss)};
  }

  Config config;
  config.file = fs::absolute(file).lexically_normal();
  config.train.out = fs::absolute(fs::path("runs") / config.file.stem());
  read_tree(root, fields_of(config, config.file.parent_path()));
  set_defaults_of_loss(config.objective, root);
  if (const YamlNode* model = root.find("model")) {
    config.model.max_pixels_given = model->find("max_pixels") != nullptr;
    config.model.min_pixels_given = model->find("min_pixels") != nullptr;
  }
  if (config.train.out.empty()) config.train.out = fs::absolute(fs::path("runs") / config.file.stem());
  config.rewards.penalise_leak = config.stage2.leak_guard == LeakGuard::penalise;
  check_together(config, root);
  return config;
}

void require_training_keys(const Config& config) {
  const std::array<std::pair<const char*, const fs::path*>, 2> needed{
      {{"model.path", &config.model.path}, {"data.train", &config.data.train}}};
  for (const auto& [key, path] : needed) {
    if (path->empty()) {
      fail_usage("cannot train with {}: {} is not set; set it in the file or with --set {}=PATH",
                 config.file.string(), key, key);
    }
  }
}

std::string to_yaml(const Config& config) {
  // fields_of() needs members that it may change, so it gets a copy.
  Config copy = config;
  std::string text =
      "# Every key of biqa's configuration as this run used it; docs/configuration.md describes them.\n";
  std::string section;
  for (const Field& field : fields_of(copy, fs::path())) {
    if (field.section != section) {
      section = field.section;
      if (!section.empty()) text += section + ":\n";
    }
    text += fmt::format("{}{}: {}\n", section.empty() ? "" : "  ", field.key, field.write());
  }
  return text;
}

std::vector<std::string> changed_settings(const std::string& then, const Config& now) {
  const auto renamed = [](const std::string& setting) {
    const std::size_t colon = setting.find(':');
    return with_new_name(setting.substr(0, colon)) + setting.substr(std::min(colon, setting.size()));
  };
  const auto settings = [&](const std::string& text) {
    std::vector<std::string> all;
    std::string section;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
      if (line.empty() || line[0] == '#') continue;
      if (line[0] == ' ')
        all.push_back(renamed(section + "." + line.substr(line.find_first_not_of(' '))));
      else if (line.back() == ':')
        section = line.substr(0, line.size() - 1);
      else
        all.push_back(line);
    }
    return all;
  };
  const std::vector<std::string> before = settings(then);
  std::vector<std::string> changed;
  for (std::string& setting : settings(to_yaml(now))) {
    if (std::find(before.begin(), before.end(), setting) == before.end())
      changed.push_back(std::move(setting));
  }
  return changed;
}

std::vector<std::string> config_keys() {
  Config config;
  std::vector<std::string> keys;
  for (const Field& field : fields_of(config, fs::path())) keys.push_back(field.full());
  return keys;
}

}  // namespace biqa
