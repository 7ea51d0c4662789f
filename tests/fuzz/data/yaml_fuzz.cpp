// SPDX-License-Identifier: Apache-2.0
// YAML into a tree, and its texts out and in again.
#include "io/yaml.h"

#include <glog/logging.h>

#include "data/unicode.h"
#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void check_text(const std::string& text) {
  const YamlNode again = parse_yaml("key: " + yaml_quoted(text) + "\n", "again");
  CHECK(again.kind == YamlKind::map && again.children.size() == 1);
  CHECK(again.children[0].kind == YamlKind::scalar && again.children[0].quoted);
  CHECK_EQ(again.children[0].text, text);
}

void check_node(const YamlNode& node) {
  CHECK(!node.where.empty());
  if (node.kind == YamlKind::scalar && is_valid_utf8(node.text)) check_text(node.text);
  for (const YamlNode& child : node.children) check_node(child);
}

void run(std::string_view input) {
  YamlNode root;
  if (accepted([&] { root = parse_yaml(std::string(input), "input"); })) check_node(root);
  if (is_valid_utf8(input)) check_text(std::string(input));
}

const Registered kRegistered("yaml", run);

}  // namespace
}  // namespace biqa::fuzz
