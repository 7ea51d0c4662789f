// SPDX-License-Identifier: Apache-2.0
#include "data/jinja.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/error.h"
#include "data/jinja_syntax.h"
#include "data/unicode.h"

namespace biqa {
namespace {

using Json = nlohmann::ordered_json;  // maps keep the order of their keys
using Expression = JinjaExpression;
using Statement = JinjaStatement;

constexpr std::int64_t kMostWork = 100000;
constexpr std::size_t kMostText = std::size_t{1} << 18, kMostItems = 10000;

/// Jinja's `undefined`: false, printed as an empty text, without attributes.
Json undefined() {
  return Json(Json::value_t::discarded);
}

bool is_true(const Json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) return value.get<std::int64_t>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return value.is_structured() && !value.empty();
}

std::string stripped(std::string text, std::string_view characters, bool left, bool right) {
  if (right) text.erase(text.find_last_not_of(characters) + 1);
  if (left) text.erase(0, text.find_first_not_of(characters));
  return text;
}

/// Cost of copying a text.
std::int64_t weight_of_text(std::string_view text) {
  return static_cast<std::int64_t>(text.size() / 64);
}

/// Cost of copying a value: its number of parts; 64 bytes of text count as one part.
std::int64_t weight_of(const Json& value) {
  if (value.is_string()) return 1 + weight_of_text(value.get_ref<const std::string&>());
  std::int64_t weight = 1;
  if (value.is_array()) {
    for (const Json& part : value) weight += weight_of(part);
  } else if (value.is_object()) {
    for (const auto& [key, part] : value.items()) weight += weight_of_text(key) + weight_of(part);
  }
  return weight;
}

class Renderer {
 public:
  Renderer(const JinjaTemplate::Program& program, const Json& variables, std::span<const JinjaMark> marks)
      : name_(program.name), marks_(marks) {
    std::map<std::string, Json> scope;
    for (const auto& [key, value] : variables.items()) scope[key] = value;
    scopes_.push_back(std::move(scope));
    scopes_.emplace_back();
  }

  std::string run(const std::vector<Statement>& statements) {
    std::string out;
    for (const Statement& statement : statements) {
      line_ = statement.line;
      work();
      const std::size_t before = out.size();
      execute(statement, out);
      work(weight_of_text(std::string_view(out).substr(before)));
      if (out.size() > kMostText) refuse("its output is too long");
    }
    return out;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail("cannot use {}:{}: {}; simplify the template", name_, line_, in_short(what));
  }
  /// Counts the cost of an operation before the operation runs. So no template can take longer than the limit.
  void work(std::int64_t amount = 1) {
    worked_ += amount;
    if (worked_ > kMostWork) refuse("it takes too long");
  }
  /// A search for `part` compares each of its bytes with each of the text, at worst.
  void search_work(std::string_view text, std::string_view part) {
    work(static_cast<std::int64_t>(text.size()) * static_cast<std::int64_t>(part.size()) / 1024);
  }

  void execute(const Statement& s, std::string& out) {
    switch (s.kind) {
      case Statement::Kind::text:
        out += s.text;
        break;
      case Statement::Kind::output:
        out += printed(value_of(s.expressions[0]));
        break;
      case Statement::Kind::block:
        out += run(s.branches[0]);
        break;
      case Statement::Kind::condition:
        for (std::size_t i = 0; i < s.branches.size(); ++i) {
          if (i < s.expressions.size() && !holds(value_of(s.expressions[i]))) continue;
          out += run(s.branches[i]);
          break;
        }
        break;
      case Statement::Kind::loop:
        loop(s, out);
        break;
      case Statement::Kind::set: {
        Json value = s.expressions.empty() ? Json(run(s.branches[0])) : value_of(s.expressions[0]);
        if (s.text.empty()) {
          scopes_.back()[s.names[0]] = std::move(value);
          break;
        }
        Json* space = find(s.text);
        if (space == nullptr || !space->is_object()) refuse("'" + s.text + "' is not a namespace");
        (*space)[s.names[0]] = std::move(value);
        if (space->size() > kMostItems) refuse("a namespace is too large");
        break;
      }
    }
  }

  void loop(const Statement& s, std::string& out) {
    const Json all = listed(value_of(s.expressions[0]));
    std::vector<Json> items;
    for (const Json& item : all) {
      scopes_.emplace_back();
      bind(s, item);
      if (s.expressions.size() < 2 || holds(value_of(s.expressions[1]))) items.push_back(item);
      scopes_.pop_back();
    }
    if (items.empty() && s.branches.size() > 1) out += run(s.branches[1]);
    const std::size_t count = items.size();
    for (std::size_t i = 0; i < count; ++i) {
      work();
      scopes_.emplace_back();
      bind(s, items[i]);
      scopes_.back()["loop"] = {
          {"index", i + 1},         {"index0", i},     {"revindex", count - i},     {"first", i == 0},
          {"last", i + 1 == count}, {"length", count}, {"revindex0", count - i - 1}};
      if (i > 0) scopes_.back()["loop"]["previtem"] = items[i - 1];
      if (i + 1 < count) scopes_.back()["loop"]["nextitem"] = items[i + 1];
      out += run(s.branches[0]);
      scopes_.pop_back();
    }
  }
  void bind(const Statement& s, const Json& item) {
    if (s.names.size() == 1) {
      scopes_.back()[s.names[0]] = item;
      return;
    }
    if (!item.is_array() || item.size() != s.names.size())
      refuse("a loop has more or fewer names than values");
    for (std::size_t i = 0; i < s.names.size(); ++i) scopes_.back()[s.names[i]] = item[i];
  }
  /// The elements that a loop visits: list elements, keys or characters.
  Json listed(const Json& value) {
    Json list = Json::array();
    if (value.is_array()) return value;
    if (value.is_object()) {
      for (const auto& [key, unused] : value.items()) list.push_back(key);
    } else if (value.is_string()) {
      const std::string& text = plain(value, "loops over");
      work(static_cast<std::int64_t>(text.size()));
      for (const char c : text) {
        if ((static_cast<unsigned char>(c) & 0xC0U) == 0x80U && !list.empty())
          list.back().get_ref<std::string&>() += c;
        else
          list.push_back(std::string(1, c));
      }
    } else if (!value.is_discarded()) {
      refuse("a loop runs over a value that is not a list");
    }
    return list;
  }

  std::string printed(const Json& value) const {
    if (value.is_discarded()) return "";
    if (value.is_string()) return value.get<std::string>();
    if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
    if (value.is_number_integer()) return std::to_string(value.get<std::int64_t>());
    if (value.is_null()) return "None";
    refuse("it prints a list or a map");
  }
  const std::string& text_of(const Json& value, const char* what) const {
    if (!value.is_string()) refuse(fmt::format("{} is applied to a value that is not text", what));
    return value.get_ref<const std::string&>();
  }
  static bool is_marked(const std::string& text) { return text.find(JinjaMark::kBegin) != std::string::npos; }
  /// Returns a text that will be split or changed. Refuses a text that contains a mark.
  const std::string& plain(const Json& value, const char* what) const {
    if (!value.is_string()) refuse(fmt::format("it {} a value that is not text", what));
    const std::string& text = value.get_ref<const std::string&>();
    if (is_marked(text)) refuse(fmt::format("it {} the text of a message", what));
    return text;
  }
  /// The value as a test of the template sees it: the real words replace their marks.
  Json seen(const Json& value) {
    if (value.is_structured()) {
      Json all = value;
      for (Json& part : all) part = seen(part);
      return all;
    }
    if (!value.is_string() || !is_marked(value.get_ref<const std::string&>())) return value;
    std::string text = value.get<std::string>();
    for (const JinjaMark& mark : marks_) {
      const std::string core = mark.core();
      for (std::size_t at = text.find(core); at != std::string::npos; at = text.find(core, at)) {
        const bool left = at > 0 && text[at - 1] == JinjaMark::kEdge;
        const std::size_t end = at + core.size();
        const bool right = end < text.size() && text[end] == JinjaMark::kEdge;
        const std::string_view words = without_blanks(mark.words, !left, !right);
        at -= left ? 1 : 0;
        text.replace(at, core.size() + (left ? 1 : 0) + (right ? 1 : 0), words);
        at += words.size();
        work(1 + static_cast<std::int64_t>(words.size() / 64));
        if (text.size() > kMostText) refuse("a text is too long");
      }
    }
    return text;
  }
  bool holds(const Json& value) { return is_true(value.is_string() ? seen(value) : value); }

  std::int64_t whole_of(const Json& value) const {
    if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
    if (!value.is_number_integer()) refuse("it computes with a value that is not a whole number");
    const auto number = value.get<std::int64_t>();
    if (std::abs(number) > std::int64_t{1} << 31) refuse("a number is too large");
    return number;
  }

  Json* find(const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const auto found = scope->find(name); found != scope->end()) return &found->second;
    }
    return nullptr;
  }

  /// Every value counts with its weight. Otherwise lists of lists could grow without limit, and become too deep to be
  /// copied.
  Json value_of(const Expression& e) {
    work();
    Json value = evaluated(e);
    work(weight_of(value) - 1);
    return value;
  }
  Json evaluated(const Expression& e) {
    switch (e.kind) {
      case Expression::Kind::literal:
        return std::visit([](const auto& value) { return Json(value); }, e.value);
      case Expression::Kind::name: {
        const Json* found = find(e.text);
        return found == nullptr ? undefined() : *found;
      }
      case Expression::Kind::list:
      case Expression::Kind::map:
        return collected(e);
      case Expression::Kind::attribute:
        return member(value_of(e.parts[0]), e.text);
      case Expression::Kind::item:
        return member(value_of(e.parts[0]), value_of(e.parts[1]));
      case Expression::Kind::slice:
        return sliced(e);
      case Expression::Kind::call:
        return called(e);
      case Expression::Kind::filter:
        return filtered(e);
      case Expression::Kind::test:
        return tested(e);
      case Expression::Kind::negation:
        return !holds(value_of(e.parts[0]));
      case Expression::Kind::minus:
        return -whole_of(value_of(e.parts[0]));
      case Expression::Kind::binary:
        return combined(e);
      case Expression::Kind::choice:
        return value_of(holds(value_of(e.parts[1])) ? e.parts[0] : e.parts[2]);
    }
    return undefined();
  }

  Json collected(const Expression& e) {
    Json all = e.kind == Expression::Kind::list ? Json::array() : Json::object();
    if (e.kind == Expression::Kind::list) {
      for (const Expression& part : e.parts) all.push_back(value_of(part));
    }
    for (std::size_t i = 0; e.kind == Expression::Kind::map && i < e.parts.size(); i += 2) {
      if (all.size() == kMostItems) refuse("a map is too large");
      all[plain(value_of(e.parts[i]), "makes a key of")] = value_of(e.parts[i + 1]);
    }
    return all;
  }

  Json member(const Json& of, const Json& wanted) {
    const Json key = seen(wanted);
    if (of.is_object() && key.is_string()) {
      const auto found = of.find(key.get_ref<const std::string&>());
      return found == of.end() ? undefined() : *found;
    }
    if (of.is_discarded() || of.is_null()) refuse("it reads a member of an undefined value");
    if (!key.is_number_integer()) return undefined();
    const Json list = listed(of);
    auto index = whole_of(key);
    const auto size = static_cast<std::int64_t>(list.size());
    if (index < 0) index += size;
    return index < 0 || index >= size ? undefined() : list[static_cast<std::size_t>(index)];
  }

  Json sliced(const Expression& e) {
    const Json of = value_of(e.parts[0]);
    if (!of.is_array() && !of.is_string()) refuse("it slices a value that is not a list");
    const Json list = listed(of);
    const auto size = static_cast<std::int64_t>(list.size());
    const auto bound = [&](std::size_t part, std::int64_t otherwise) {
      const Json value = value_of(e.parts[part]);
      return value.is_null() ? otherwise : whole_of(value);
    };
    const std::int64_t step = bound(3, 1);
    if (step == 0) refuse("a slice has the step 0");
    const auto place = [&](std::size_t part, std::int64_t otherwise) {
      const std::int64_t at = bound(part, otherwise);
      const bool given = !value_of(e.parts[part]).is_null();
      return std::clamp(given && at < 0 ? at + size : at, step > 0 ? std::int64_t{0} : std::int64_t{-1},
                        step > 0 ? size : size - 1);
    };
    const std::int64_t from = place(1, step > 0 ? 0 : size - 1), to = place(2, step > 0 ? size : -1);
    Json chosen = Json::array();
    for (std::int64_t i = from; step > 0 ? i < to : i > to; i += step)
      chosen.push_back(list[static_cast<std::size_t>(i)]);
    if (of.is_array()) return chosen;
    std::string text;
    for (const Json& part : chosen) text += part.get<std::string>();
    return text;
  }

  Json combined(const Expression& e) {
    const std::string& sign = e.text;
    const Json left = value_of(e.parts[0]);
    if (sign == "and") return holds(left) ? value_of(e.parts[1]) : left;
    if (sign == "or") return holds(left) ? left : value_of(e.parts[1]);
    const Json right = value_of(e.parts[1]);
    if (sign == "==") return equal(seen(left), seen(right));
    if (sign == "!=") return !equal(seen(left), seen(right));
    if (sign == "in") return contains(seen(right), seen(left));
    if (sign == "not in") return !contains(seen(right), seen(left));
    if (sign == "~") return joined(printed(left), printed(right));
    if (sign == "+" && left.is_string()) return joined(text_of(left, "+"), text_of(right, "+"));
    if (sign == "+" && left.is_array() && right.is_array()) {
      Json all = left;
      all.insert(all.end(), right.begin(), right.end());
      if (all.size() > kMostItems) refuse("a list is too long");
      return all;
    }
    const std::int64_t a = whole_of(left), b = whole_of(right);
    if (sign == "+") return a + b;
    if (sign == "-") return a - b;
    if (sign == "*") return a * b;
    if (sign == "<") return a < b;
    if (sign == ">") return a > b;
    if (sign == "<=") return a <= b;
    if (sign == ">=") return a >= b;
    if (sign == "/" || b == 0) refuse("division is not supported");
    const std::int64_t rest = (a % b + b) % b;  // has the sign of the divisor, as in Python
    return sign == "%" ? rest : (a - rest) / b;
  }
  std::string joined(std::string left, std::string_view right) const {
    if (left.size() + right.size() > kMostText) refuse("a text is too long");
    left.append(right);
    return left;
  }
  static bool equal(const Json& left, const Json& right) {
    if (left.is_discarded() || right.is_discarded()) return left.is_discarded() && right.is_discarded();
    if (left.is_array() && right.is_array())
      return std::equal(left.begin(), left.end(), right.begin(), right.end(), equal);
    if (!left.is_object() || !right.is_object()) return left == right;
    if (left.size() != right.size()) return false;
    for (const auto& [key, value] : left.items()) {  // in any order
      const auto other = right.find(key);
      if (other == right.end() || !equal(value, *other)) return false;
    }
    return true;
  }
  bool contains(const Json& all, const Json& one) {
    if (all.is_string()) {
      const auto& text = all.get_ref<const std::string&>();
      search_work(text, text_of(one, "in"));
      return text.find(text_of(one, "in")) != std::string::npos;
    }
    if (all.is_object()) return one.is_string() && all.contains(one.get_ref<const std::string&>());
    if (all.is_discarded()) return false;
    const Json list = listed(all);
    return std::any_of(list.begin(), list.end(), [&](const Json& item) { return equal(item, one); });
  }

  Json called(const Expression& e) {
    const Expression& what = e.parts[0];
    std::vector<Json> arguments;
    for (std::size_t i = 1; i < e.parts.size(); ++i) arguments.push_back(value_of(e.parts[i]));
    if (what.kind == Expression::Kind::attribute)
      return method(value_of(what.parts[0]), what.text, arguments);
    if (what.kind == Expression::Kind::name && what.text == "namespace" && arguments.empty()) {
      Json space = Json::object();
      for (std::size_t i = 0; i < e.names.size(); ++i) space[e.names[i]] = value_of(e.named_values[i]);
      return space;
    }
    if (what.kind == Expression::Kind::name && what.text == "raise_exception" && arguments.size() == 1)
      refuse("the template refuses: " + printed(arguments[0]));
    if (what.kind == Expression::Kind::name && what.text == "range" && !arguments.empty() &&
        arguments.size() < 3) {
      Json numbers = Json::array();
      const std::int64_t first = arguments.size() > 1 ? whole_of(arguments[0]) : 0;
      for (std::int64_t i = first; i < whole_of(arguments.back()); ++i) {
        if (numbers.size() == kMostItems) refuse("a list is too long");
        numbers.push_back(i);
      }
      return numbers;
    }
    refuse("the function '" + what.text + "' is not supported");
  }

  Json method(const Json& of, const std::string& name, const std::vector<Json>& arguments) {
    const std::size_t count = arguments.size();
    if (of.is_object()) {
      if (name == "get" && (count == 1 || count == 2)) {
        const Json found = member(of, arguments[0]);
        return !found.is_discarded() ? found : count == 2 ? arguments[1] : Json(nullptr);
      }
      if (name == "keys" && count == 0) return listed(of);
      if ((name == "items" || name == "values") && count == 0) {
        Json all = Json::array();
        for (const auto& [key, value] : of.items())
          all.push_back(name == "items" ? Json::array({Json(key), value}) : value);
        return all;
      }
    }
    text_of(of, ("." + name).c_str());
    if (name == "startswith" && count == 1 && arguments[0].is_string())
      return seen(of).get<std::string>().starts_with(seen(arguments[0]).get<std::string>());
    if (name == "endswith" && count == 1 && arguments[0].is_string())
      return seen(of).get<std::string>().ends_with(seen(arguments[0]).get<std::string>());
    if ((name == "strip" || name == "lstrip" || name == "rstrip") && count == 0)
      return trimmed(of.get_ref<const std::string&>(), name != "rstrip", name != "lstrip");
    const std::string& text = plain(of, "splits or changes");
    const auto argument = [&](std::size_t i) -> const std::string& {
      return plain(arguments[i], "calls a method with");
    };
    if ((name == "strip" || name == "lstrip" || name == "rstrip") && count == 1) {
      search_work(text, argument(0));
      return stripped(text, argument(0), name != "rstrip", name != "lstrip");
    }
    if ((name == "upper" || name == "lower") && count == 0) return cased(text, name);
    if (name == "split" && count == 1 && !argument(0).empty()) {
      search_work(text, argument(0));
      Json parts = Json::array();
      std::size_t from = 0;
      for (std::size_t at = text.find(argument(0)); at != std::string::npos;
           at = text.find(argument(0), from)) {
        work();
        parts.push_back(text.substr(from, at - from));
        from = at + argument(0).size();
      }
      parts.push_back(text.substr(from));
      return parts;
    }
    refuse("the method '" + name + "' is not supported");
  }

  /// `text` in "upper" or "lower" case.
  std::string cased(const std::string& text, const std::string& wanted) const {
    std::optional<std::string> found;
    if (is_valid_utf8(text)) found = in_case(text, wanted == "upper" ? LetterCase::upper : LetterCase::lower);
    if (!found) refuse("'" + wanted + "' of the text '" + text + "' is not supported");
    return *std::move(found);
  }

  Json filtered(const Expression& e) {
    const Json value = value_of(e.parts[0]);
    const std::size_t count = e.parts.size() - 1;
    if (!e.names.empty()) refuse("the filter '" + e.text + "' with named arguments is not supported");
    if (e.text == "trim" && count == 0) return trimmed(printed(value), true, true);
    if (e.text == "string" && count == 0) return printed(value);
    if ((e.text == "upper" || e.text == "lower") && count == 0)
      return cased(plain(printed(value), "changes"), e.text);
    if ((e.text == "length" || e.text == "count") && count == 0)
      return listed(value.is_string() ? seen(value) : value).size();
    if (e.text == "list" && count == 0) return listed(value);
    if ((e.text == "first" || e.text == "last") && count == 0) {
      const Json list = listed(value);
      return list.empty() ? undefined() : e.text == "first" ? list.front() : list.back();
    }
    if ((e.text == "default" || e.text == "d") && (count == 1 || count == 2)) {
      const bool empty_too = count == 2 && holds(value_of(e.parts[2]));
      return value.is_discarded() || (empty_too && !holds(value)) ? value_of(e.parts[1]) : value;
    }
    if (e.text == "join" && count <= 1) {
      const std::string between = count == 1 ? printed(value_of(e.parts[1])) : "";
      std::string text;
      bool begun = false;
      for (const Json& part : listed(value)) {
        if (begun) text = joined(std::move(text), between);
        text = joined(std::move(text), printed(part));
        begun = true;
      }
      return text;
    }
    refuse("the filter '" + e.text + "' is not supported");
  }

  Json tested(const Expression& e) {
    const Json value = value_of(e.parts[0]);
    if (e.parts.size() == 2 && (e.text == "equalto" || e.text == "eq"))
      return equal(seen(value), seen(value_of(e.parts[1])));
    if (e.parts.size() == 1) {
      const std::pair<const char*, bool> known[]{{"defined", !value.is_discarded()},
                                                 {"undefined", value.is_discarded()},
                                                 {"string", value.is_string()},
                                                 {"mapping", value.is_object()},
                                                 {"none", value.is_null()},
                                                 {"boolean", value.is_boolean()},
                                                 {"true", value.is_boolean() && value.get<bool>()},
                                                 {"false", value.is_boolean() && !value.get<bool>()},
                                                 {"number", value.is_number() || value.is_boolean()},
                                                 {"integer", value.is_number_integer()},
                                                 {"sequence", value.is_structured() || value.is_string()},
                                                 {"iterable", value.is_structured() || value.is_string()}};
      for (const auto& [name, holds] : known) {
        if (e.text == name) return holds;
      }
    }
    refuse("the test '" + e.text + "' is not supported");
  }

  static std::string trimmed(std::string_view text, bool left, bool right) {
    return std::string(without_blanks(text, left, right));
  }

  const std::string& name_;
  const std::span<const JinjaMark> marks_;
  int line_ = 1;
  std::int64_t worked_ = 0;
  std::vector<std::map<std::string, Json>> scopes_;
};

}  // namespace

JinjaTemplate::JinjaTemplate(const std::string& text, std::string name) {
  auto program = std::make_unique<Program>();
  program->statements = parse_jinja(text, name);
  program->name = std::move(name);
  program_ = std::move(program);
}
JinjaTemplate::~JinjaTemplate() = default;
JinjaTemplate::JinjaTemplate(JinjaTemplate&&) noexcept = default;
JinjaTemplate& JinjaTemplate::operator=(JinjaTemplate&&) noexcept = default;

std::string JinjaTemplate::render(const nlohmann::ordered_json& variables,
                                  std::span<const JinjaMark> marks) const {
  return Renderer(*program_, variables, marks).run(program_->statements);
}

}  // namespace biqa
