// SPDX-License-Identifier: Apache-2.0
#include "io/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <sstream>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "io/files.h"

namespace biqa {
namespace {

constexpr std::string_view kTextTag = "tag:yaml.org,2002:str", kNullTag = "tag:yaml.org,2002:null";

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

/// Digits without sign in one base, nothing else.
std::optional<std::int64_t> whole(std::string_view digits, int base) {
  std::int64_t value = 0;
  if (digits.empty() || digits.front() == '-') return std::nullopt;
  const char* const end = digits.data() + digits.size();
  const auto [stop, problem] = std::from_chars(digits.data(), end, value, base);
  if (problem != std::errc() || stop != end) return std::nullopt;
  return value;
}

/// 0o17 or 0x1F.
std::optional<std::int64_t> prefixed(std::string_view text) {
  if (text.starts_with("0o")) return whole(text.substr(2), 8);
  if (text.starts_with("0x")) return whole(text.substr(2), 16);
  return std::nullopt;
}

/// Removes a sign from `text`.
bool take_sign(std::string_view& text) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  return negative;
}

constexpr std::size_t kMaxValues = 100000;
constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxBytes = std::size_t{4} << 20;

// Copies yaml-cpp's graph into a YamlNode tree. Aliases are followed, so values must be counted: nine lines of nested
// aliases can expand to billions of values, and an alias may be inside its own target.
class Copier {
 public:
  explicit Copier(const std::string& name) : name_(name) {}

  YamlNode copy(const YAML::Node& source, int depth) {
    YamlNode node;
    node.where = place(source);
    if (++values_ > kMaxValues || depth > kMaxDepth) {
      fail_usage(
          "cannot read YAML {}: it has more than {} values or {} levels after aliases are expanded; write it "
          "without aliases",
          node.where, kMaxValues, kMaxDepth);
    }
    switch (source.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        break;
      case YAML::NodeType::Scalar:
        if (source.Tag() == kNullTag) break;
        node.kind = YamlKind::scalar;
        node.text = source.Scalar();
        node.quoted = source.Tag() == "!" || source.Tag() == kTextTag;
        break;
      case YAML::NodeType::Sequence:
        node.kind = YamlKind::list;
        for (const auto& item : source) node.children.push_back(copy(item, depth + 1));
        break;
      case YAML::NodeType::Map: {
        node.kind = YamlKind::map;
        Places places;
        for (const auto& entry : source) add_entry(node, entry.first, entry.second, places, depth);
        break;
      }
    }
    return node;
  }

 private:
  std::string place(const YAML::Node& node) const {
    return fmt::format("{}:{}", name_, node.Mark().line + 1);
  }

  using Places = std::unordered_map<std::string, std::string>;  // of a map's keys so far

  void add_entry(YamlNode& map, const YAML::Node& key, const YAML::Node& value, Places& places, int depth) {
    if (!key.IsScalar())
      fail_usage("cannot read YAML {}: a key must be plain text; write `name: value`", place(key));
    const auto [earlier, fresh] = places.emplace(key.Scalar(), place(key));
    if (!fresh) {
      fail_usage("cannot read YAML {}: key '{}' is given twice, first at {}; remove one", place(key),
                 key.Scalar(), earlier->second);
    }
    YamlNode child = copy(value, depth + 1);
    child.key = key.Scalar();
    child.where = place(key);
    map.children.push_back(std::move(child));
  }

  const std::string& name_;
  std::size_t values_ = 0;
};

// Counts documents and ignores everything else.
class DocumentCounter : public YAML::EventHandler {
 public:
  explicit DocumentCounter(const std::string& name) : name_(name) {}
  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) {
      fail_usage("cannot read YAML {}:{}: it contains more than one document; keep one (no second `---`)",
                 name_, mark.line + 1);
    }
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& /*mark*/, YAML::anchor_t /*anchor*/) override {}
  void OnAlias(const YAML::Mark& /*mark*/, YAML::anchor_t /*anchor*/) override {}
  void OnScalar(const YAML::Mark& /*mark*/, const std::string& /*tag*/, YAML::anchor_t /*anchor*/,
                const std::string& /*value*/) override {}
  void OnSequenceStart(const YAML::Mark& /*mark*/, const std::string& /*tag*/, YAML::anchor_t /*anchor*/,
                       YAML::EmitterStyle::value /*style*/) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark& /*mark*/, const std::string& /*tag*/, YAML::anchor_t /*anchor*/,
                  YAML::EmitterStyle::value /*style*/) override {}
  void OnMapEnd() override {}

 private:
  const std::string& name_;
  int documents_ = 0;
};

// YAML::LoadAll cannot be used: if a document begins with a comma, it never ends.
void require_one_document(const std::string& text, const std::string& name) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentCounter counter(name);
  while (parser.HandleNextDocument(counter)) continue;
}

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

std::optional<bool> yaml_boolean(const YamlNode& node) {
  if (node.kind != YamlKind::scalar || node.quoted) return std::nullopt;
  if (is_one_of(node.text, {"true", "True", "TRUE"})) return true;
  if (is_one_of(node.text, {"false", "False", "FALSE"})) return false;
  return std::nullopt;
}

std::optional<double> yaml_number(const YamlNode& node) {
  if (node.kind != YamlKind::scalar || node.quoted) return std::nullopt;
  if (const auto value = prefixed(node.text)) return static_cast<double>(*value);
  if (is_one_of(node.text, {".nan", ".NaN", ".NAN"})) return std::numeric_limits<double>::quiet_NaN();
  std::string_view text = node.text;
  const bool negative = take_sign(text);
  if (is_one_of(text, {".inf", ".Inf", ".INF"}))
    return negative ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
  // from_chars ignores the locale, but it also reads a sign, "inf" and "nan".
  if (text.find_first_not_of("0123456789.eE+-") != std::string_view::npos || text.starts_with('-'))
    return std::nullopt;
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data(), end, value);
  if (problem != std::errc() || stop != end) return std::nullopt;
  return negative ? -value : value;
}

std::optional<std::int64_t> yaml_integer(const YamlNode& node) {
  if (node.kind != YamlKind::scalar || node.quoted) return std::nullopt;
  if (const auto value = prefixed(node.text)) return value;
  std::string_view text = node.text;
  const bool negative = take_sign(text);
  if (const auto value = whole(text, 10)) return negative ? -*value : *value;
  constexpr double kExact = 0x1p53;
  const auto number = yaml_number(node);
  if (!number || !(std::abs(*number) <= kExact) || *number != std::floor(*number)) return std::nullopt;
  return static_cast<std::int64_t>(*number);
}

YamlNode parse_yaml(const std::string& text, const std::string& name) {
  try {
    require_one_document(text, name);
    YamlNode root = Copier(name).copy(YAML::Load(text), 0);
    if (root.kind == YamlKind::null) root.where = name + ":1";
    return root;
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
