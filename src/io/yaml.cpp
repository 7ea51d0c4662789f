// SPDX-License-Identifier: Apache-2.0
#include "io/yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "io/files.h"

namespace biqa {
namespace {

constexpr std::size_t kMaxValues = 100000;
constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxBytes = std::size_t{4} << 20;

// Copies yaml-cpp's graph into our tree. Aliases are followed, so values are counted: nine lines of nested
// aliases can stand for billions of values, and an alias may stand inside what it names.
class Copier {
 public:
  explicit Copier(const std::string& name) : name_(name) {}

  YamlNode copy(const YAML::Node& source, int depth) {
    YamlNode node;
    node.where = place(source);
    if (++values_ > kMaxValues || depth > kMaxDepth) {
      fail_usage(
          "cannot read YAML {}: more than {} values or {} levels once aliases are followed; write it plainly",
          node.where, kMaxValues, kMaxDepth);
    }
    switch (source.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        break;
      case YAML::NodeType::Scalar:
        node.kind = YamlKind::scalar;
        node.text = source.Scalar();
        node.quoted = source.Tag() == "!";
        break;
      case YAML::NodeType::Sequence:
        node.kind = YamlKind::list;
        for (const auto& item : source) node.children.push_back(copy(item, depth + 1));
        break;
      case YAML::NodeType::Map:
        node.kind = YamlKind::map;
        for (const auto& entry : source) add_entry(node, entry.first, entry.second, depth);
        break;
    }
    return node;
  }

 private:
  std::string place(const YAML::Node& node) const {
    return fmt::format("{}:{}", name_, node.Mark().line + 1);
  }

  void add_entry(YamlNode& map, const YAML::Node& key, const YAML::Node& value, int depth) {
    if (!key.IsScalar())
      fail_usage("cannot read YAML {}: a key must be plain text; write `name: value`", place(key));
    const YamlNode* earlier = map.find(key.Scalar());
    if (earlier != nullptr) {
      fail_usage("cannot read YAML {}: key '{}' is given twice, first at {}; remove one", place(key),
                 key.Scalar(), earlier->where);
    }
    YamlNode child = copy(value, depth + 1);
    child.key = key.Scalar();
    child.where = place(key);
    map.children.push_back(std::move(child));
  }

  const std::string& name_;
  std::size_t values_ = 0;
};

}  // namespace

const YamlNode* YamlNode::find(std::string_view name) const {
  const auto at =
      std::find_if(children.begin(), children.end(), [&](const YamlNode& c) { return c.key == name; });
  return kind == YamlKind::map && at != children.end() ? &*at : nullptr;
}

YamlNode* YamlNode::find(std::string_view name) {
  const auto at =
      std::find_if(children.begin(), children.end(), [&](const YamlNode& c) { return c.key == name; });
  return kind == YamlKind::map && at != children.end() ? &*at : nullptr;
}

YamlNode parse_yaml(const std::string& text, const std::string& name) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) {
      fail_usage("cannot read YAML {}: it holds {} documents; keep one (no second `---`)", name,
                 documents.size());
    }
    if (documents.empty()) {
      YamlNode nothing;
      nothing.where = name + ":1";
      return nothing;
    }
    return Copier(name).copy(documents.front(), 0);
  } catch (const YAML::Exception& problem) {
    fail_usage("cannot read YAML {}:{}: {}; correct the syntax near column {}", name, problem.mark.line + 1,
               problem.msg, problem.mark.column + 1);
  }
}

YamlNode read_yaml(const std::filesystem::path& file) {
  return parse_yaml(read_file(file, kMaxBytes), file.string());
}

std::string yaml_quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        quoted += "\\\"";
        break;
      case '\\':
        quoted += "\\\\";
        break;
      case '\n':
        quoted += "\\n";
        break;
      case '\t':
        quoted += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
          quoted += fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
        } else {
          quoted += c;
        }
    }
  }
  return quoted + '"';
}

}  // namespace biqa
