// SPDX-License-Identifier: Apache-2.0
#include "io/json.h"

#include <glog/logging.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "core/error.h"

namespace biqa {
namespace {

constexpr std::size_t kShownCharacters = 120;

// One line, printable, not too long.
std::string shortened(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (result.size() == kShownCharacters) return result + "…";
    const auto byte = static_cast<unsigned char>(c);
    result += byte < 0x20 || byte >= 0x7f ? '?' : c;
  }
  return result;
}

// "[json.exception.parse_error.101] parse error at …: syntax error …" without the library's own code.
std::string reason_of(const nlohmann::json::exception& error) {
  const std::string text = error.what();
  const auto end = text.find("] ");
  return shortened(end == std::string::npos ? text : text.substr(end + 2));
}

template <typename Json>
std::string repaired_dump(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// The first text or key in a value that is not UTF-8, repaired and in quotes; empty if there is none.
template <typename Json>
std::string first_broken(const Json& value) {
  if (!value.is_structured()) {
    try {
      value.dump();
      return {};
    } catch (const typename Json::type_error&) {
      return repaired_dump(value, -1);
    }
  }
  for (const auto& [key, part] : value.items()) {
    if (std::string broken = first_broken(Json(key)); !broken.empty()) return broken;
    if (std::string broken = first_broken(part); !broken.empty()) return broken;
  }
  return {};
}

std::atomic<bool> told_of_broken_text{false};

template <typename Json>
std::string dump_and_warn(const Json& value, int indent) {
  try {
    return value.dump(indent);
  } catch (const typename Json::type_error&) {
    if (!told_of_broken_text.exchange(true)) {
      LOG(WARNING) << "a text is not UTF-8, so some of its bytes are replaced in JSON: "
                   << one_line(first_broken(value)) << "; if it is a file name, rename the file";
    }
    return repaired_dump(value, indent);
  }
}

}  // namespace

std::string json_text(const nlohmann::json& value, int indent) {
  return dump_and_warn(value, indent);
}

std::string json_text(const nlohmann::ordered_json& value, int indent) {
  return dump_and_warn(value, indent);
}

nlohmann::json parse_json(std::string_view text, const std::string& where) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  std::size_t values = 0;
  const auto watch = [&](int depth, Event event, nlohmann::json& parsed) {
    if (depth > kMaxJsonDepth) {
      fail("cannot read {}: JSON nested more than {} deep; check that it is the right file", where,
           kMaxJsonDepth);
    }
    if (++values > kMaxJsonValues) {
      fail("cannot read {}: JSON with more than {} values; check that it is the right file", where,
           kMaxJsonValues);
    }
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get_ref<const std::string&>()).second) {
      fail("cannot read {}: the key {} occurs twice in one JSON object; remove one of them", where,
           shown(parsed));
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, watch);
  } catch (const nlohmann::json::parse_error& error) {
    const std::string_view before = text.substr(0, error.byte > 0 ? error.byte - 1 : 0);
    // At the end of the text, the library counts one byte more than there are.
    const std::string place = error.byte > text.size()
                                  ? fmt::format("at its end after {} bytes", text.size())
                                  : fmt::format("at byte {} of {}", error.byte, text.size());
    // Python's json.dumps writes these.
    const std::string_view rest = text.substr(before.size());
    const bool is_no_number = rest.starts_with("NaN") || rest.starts_with("Infinity");
    fail("cannot read {}: not valid JSON in line {}, {} ({}); {}", where,
         1 + std::count(before.begin(), before.end(), '\n'), place, reason_of(error),
         is_no_number ? "write null for a missing number" : "check that the file is complete");
  } catch (const nlohmann::json::exception& error) {
    fail("cannot read {}: not valid JSON ({}); check that the file is complete", where, reason_of(error));
  }
}

nlohmann::json read_json(const std::filesystem::path& path, std::size_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path.string());
}

nlohmann::ordered_json number_or_null(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

std::string shown(const nlohmann::json& value) {
  // Keys and names may be hostile. Bytes that are no text are replaced and never throw.
  return shortened(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

JsonFields::JsonFields(const nlohmann::json& object, std::string where, std::string path)
    : object_(&object), where_(std::move(where)), path_(std::move(path)) {
  if (object.is_object()) return;
  const std::string name = path_.empty() ? "the document" : path_.substr(0, path_.size() - 1);
  fail("cannot read {}: {} is {}, not an object; correct it", where_, name, shown(object));
}

const nlohmann::json* JsonFields::find(const std::string& key) const {
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

namespace {
// The value of an integer field, or nullopt where it is none or out of range.
std::optional<std::int64_t> integer_of(const nlohmann::json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return std::nullopt;
  }
  return value.get<std::int64_t>();
}
}  // namespace

std::optional<std::int64_t> JsonFields::integer(const std::string& key, std::int64_t least,
                                                std::int64_t most) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto number = integer_of(*value);
  if (!number || *number < least || *number > most) {
    refuse(key, fmt::format("an integer in {} … {}", least, most));
  }
  return number;
}

std::optional<double> JsonFields::number(const std::string& key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !std::isfinite(value->get<double>())) refuse(key, "a number");
  return value->get<double>();
}

std::optional<bool> JsonFields::boolean(const std::string& key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) refuse(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonFields::text(const std::string& key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse(key, "a text");
  return value->get<std::string>();
}

std::optional<std::string> JsonFields::label(const std::string& key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_number()) refuse(key, "a text or a number");
  return value->dump();
}

std::optional<std::vector<std::int64_t>> JsonFields::integers(const std::string& key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) refuse(key, "a list of integers");
  std::vector<std::int64_t> result;
  for (const nlohmann::json& element : *value) {
    const auto number = integer_of(element);
    if (!number) refuse(key, "a list of integers");
    result.push_back(*number);
  }
  return result;
}

std::optional<std::vector<std::string>> JsonFields::texts(const std::string& key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) refuse(key, "a list of texts");
  std::vector<std::string> result;
  for (const nlohmann::json& element : *value) {
    if (!element.is_string()) refuse(key, "a list of texts");
    result.push_back(element.get<std::string>());
  }
  return result;
}

std::optional<JsonFields> JsonFields::object(const std::string& key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  return JsonFields(*value, where_, path_ + key + ".");
}

void JsonFields::missing(const std::string& key) const {
  fail("cannot read {}: {}{} is missing; add it", where_, path_, key);
}

void JsonFields::refuse(const std::string& key, const std::string& expected) const {
  const nlohmann::json* value = find(key);
  fail("cannot read {}: {}{} is {}, not {}; correct it", where_, path_, key,
       value == nullptr ? "missing" : shown(*value), expected);
}

}  // namespace biqa
