// SPDX-License-Identifier: Apache-2.0
#include "data/chat_template.h"

#include <glog/logging.h>

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "io/files.h"
#include "io/json.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxBytes = std::size_t{32} << 20;
constexpr std::string_view kSystem = "system", kUser = "user";  // marks
constexpr std::string_view kPicture = "<|image_pad|>";

std::size_t occurrences(std::string_view text, std::string_view what) {
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

/// The template in a JSON file's `chat_template`; empty if it has none.
std::string template_in(const fs::path& file) {
  if (!fs::exists(file)) return "";
  const nlohmann::json object = parse_json(read_file(file, kMaxBytes), file.string());
  if (!object.is_object() || !object.contains("chat_template")) return "";
  const nlohmann::json& given = object["chat_template"];
  if (given.is_string()) return given.get<std::string>();
  if (given.is_null()) return "";
  if (given.is_array()) {
    for (const nlohmann::json& entry : given) {
      if (entry.is_object() && entry.value("name", nlohmann::json()) == "default" &&
          entry.contains("template") && entry["template"].is_string())
        return entry["template"].get<std::string>();
    }
  }
  fail(
      "cannot use {}: its chat_template is neither a text nor a list with a template named default; correct "
      "the file",
      file.string());
}

std::map<std::string, std::string> tokens_in(const fs::path& folder) {
  std::map<std::string, std::string> tokens;
  const fs::path file = folder / "tokenizer_config.json";
  if (!fs::exists(file)) return tokens;
  const nlohmann::json object = parse_json(read_file(file, kMaxBytes), file.string());
  for (const char* name : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    if (!object.is_object() || !object.contains(name)) continue;
    const nlohmann::json& token = object[name];
    if (token.is_string()) tokens[name] = token.get<std::string>();
    if (token.is_object() && token.contains("content") && token["content"].is_string())
      tokens[name] = token["content"].get<std::string>();
  }
  return tokens;
}

/// Files that may hold the template, in the order in which they are looked at.
constexpr std::array kFiles{"processor_config.json", "chat_template.json", "chat_template.jinja",
                            "tokenizer_config.json"};

}  // namespace

std::shared_ptr<const ChatTemplate> ChatTemplate::find(const fs::path& folder) {
  for (const char* name : kFiles) {
    const fs::path file = folder / name;
    const bool plain = file.extension() == ".jinja";
    std::string text;
    if (!plain) {
      text = template_in(file);
    } else if (fs::exists(file)) {
      text = read_file(file, kMaxBytes);
      if (text.empty())
        LOG(WARNING) << "chat template: " << one_line(file.string())
                     << " is empty and therefore not used; get the file again, or remove it";
    }
    if (!text.empty()) return std::make_shared<ChatTemplate>(text, file.string(), tokens_in(folder));
  }
  return nullptr;
}

ChatTemplate::ChatTemplate(const std::string& text, const std::string& name,
                           std::map<std::string, std::string> tokens)
    : template_(text, name), name_(name), tokens_(std::move(tokens)) {}

std::string ChatTemplate::rendered(bool system, std::size_t images, const Words& words, bool as_list) const {
  using Json = nlohmann::ordered_json;
  const std::array<JinjaMark, 2> marks{JinjaMark{kSystem, words.system}, JinjaMark{kUser, words.user}};
  const auto content = [&](const JinjaMark& mark, std::size_t pictures) {
    if (!as_list) return Json(mark.text());
    Json list = Json::array();
    for (std::size_t i = 0; i < pictures; ++i) list.push_back({{"type", "image"}});
    list.push_back({{"type", "text"}, {"text", mark.text()}});
    return list;
  };
  Json messages = Json::array();
  if (system) messages.push_back({{"role", "system"}, {"content", content(marks[0], 0)}});
  messages.push_back({{"role", "user"}, {"content", content(marks[1], images)}});
  Json variables{
      {"messages", messages}, {"add_generation_prompt", true}, {"tools", nullptr}, {"documents", nullptr}};
  for (const auto& [name, token] : tokens_) variables[name] = token;
  return template_.render(variables, marks);
}

std::vector<ChatTemplate::Part> ChatTemplate::parts_of(bool system, std::size_t images, const Words& words,
                                                       bool as_list) const {
  const std::string text = rendered(system, images, words, as_list);
  const auto refuse = [&](const std::string& what) {
    fail("cannot use {}: {}; simplify the template", name_, what);
  };
  if (occurrences(text, kPicture) != images)
    refuse(fmt::format("its output for a prompt with {} images contains {} {} times", images, kPicture,
                       occurrences(text, kPicture)));
  std::vector<Part> parts;
  std::size_t from = 0;
  const auto write = [&](std::size_t to) {
    parts.push_back({Part::Kind::written, text.substr(from, to - from), false});
    constexpr std::array kMarks{JinjaMark::kBegin, JinjaMark::kEnd, JinjaMark::kEdge};
    if (parts.back().text.find_first_of(std::string_view(kMarks.data(), kMarks.size())) != std::string::npos)
      refuse("its output has the text of a message in an unexpected place or form");
  };
  const auto take = [&](Part::Kind kind, std::string_view name, const char* what) {
    const std::string core = JinjaMark{name, {}}.core();
    const std::size_t at = text.find(core, from), end = at + core.size();
    if (at == std::string::npos || occurrences(text, core) != 1)
      refuse(fmt::format("its output does not contain the {} exactly once", what));
    const bool left = at > from && text[at - 1] == JinjaMark::kEdge;
    const bool right = end < text.size() && text[end] == JinjaMark::kEdge;
    if (left != right) refuse("it trims only one side of a text");
    write(at - (left ? 1 : 0));
    from = end + (right ? 1 : 0);
    parts.push_back({kind, "", !left});
  };
  if (system) take(Part::Kind::system, kSystem, "system message");
  take(Part::Kind::user, kUser, "user's text");
  write(text.size());
  return parts;
}

std::vector<ChatTemplate::Part> ChatTemplate::parts(bool system, std::size_t images,
                                                    const Words& words) const {
  if (images > 0) return parts_of(system, images, words, true);
  // Most templates take a text as it is. Some take only lists of parts.
  std::optional<Error> first;
  try {
    return parts_of(system, 0, words, false);
  } catch (const Error& error) {
    first = error;
  }
  try {
    return parts_of(system, 0, words, true);
  } catch (const Error&) {
    throw *first;
  }
}

bool ChatTemplate::follows(bool system, std::size_t images) const {
  try {
    parts(system, images);
  } catch (const Error&) {
    return false;
  }
  return true;
}

std::shared_ptr<const ChatTemplate> find_chat_template(const fs::path& folder, bool tell) {
  // A file that exists but cannot be read is an Error, and no reason for another template. Examples are a Git LFS
  // pointer and a broken link.
  for (const char* name : kFiles) {
    const fs::path file = folder / name;
    if (fs::exists(fs::symlink_status(file))) read_beginning(file, 1);
  }
  std::shared_ptr<const ChatTemplate> found;
  const auto warn = [&](const std::string& which, const std::string& reason) {
    if (!tell) return;
    LOG(WARNING) << "chat template: " << one_line(reason) << "; until then, " << which
                 << " use Qwen2.5-VL's own template, but transformers may use another one for this folder";
  };
  try {
    found = ChatTemplate::find(folder);
  } catch (const Error& error) {
    warn("prompts", error.what());
  }
  if (found == nullptr) return nullptr;
  constexpr std::array<const char*, 3> kKinds{"prompts without images", "prompts with an image",
                                              "prompts with several images"};
  std::vector<std::pair<std::string, std::string>> failed;  // reason and kinds of prompts
  for (const std::size_t images : {std::size_t{1}, std::size_t{0}, std::size_t{2}}) {
    try {
      for (const bool system : {false, true}) found->parts(system, images);
    } catch (const Error& error) {
      const std::string reason = error.what();
      if (!failed.empty() && failed.back().first == reason)
        failed.back().second += fmt::format(", {}", kKinds.at(images));
      else
        failed.emplace_back(reason, kKinds.at(images));
    }
  }
  for (const auto& [reason, kinds] : failed) warn(kinds, reason);
  return found;
}

}  // namespace biqa
