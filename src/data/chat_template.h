// SPDX-License-Identifier: Apache-2.0
// The chat template of a model folder, taken apart: what stands before, between and behind system message, pictures and
// user's text. The template writes placeholders, so no text of a user can become a control token; what it asks of a text is answered for the
// text.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/jinja.h"

namespace biqa {

class ChatTemplate {
 public:
  /// A part of a prompt.
  struct Part {
    enum class Kind { written, system, user } kind = Kind::written;
    std::string text;      ///< for `written`: the template's own text, control tokens spelled out
    bool trimmed = false;  ///< of the others: without_blanks()
  };

  /// Finds the template that transformers uses. It looks in this order: `chat_template` of processor_config.json,
  /// chat_template.json, chat_template.jinja, `chat_template` of tokenizer_config.json (a text, or the one named
  /// "default" in a list). nullptr if there is none. Throws Error if one cannot be read or is not supported.
  static std::shared_ptr<const ChatTemplate> find(const std::filesystem::path& folder);

  /// `tokens`: bos_token, eos_token, pad_token and unk_token of tokenizer_config.json.
  ChatTemplate(const std::string& text, const std::string& name,
               std::map<std::string, std::string> tokens = {});

  /// The texts of a conversation, for templates that ask what they say.
  struct Words {
    std::string_view system = "words", user = "words";
  };
  /// A conversation of a system message, if any, and one user turn (`images`, then the text), up to where the answer
  /// begins. Throws Error where the template does not show each of them once and whole.
  std::vector<Part> parts(bool system, std::size_t images, const Words& words) const;
  std::vector<Part> parts(bool system, std::size_t images) const { return parts(system, images, Words{}); }
  /// Whether it has such prompts at all.
  bool follows(bool system, std::size_t images) const;

 private:
  std::string rendered(bool system, std::size_t images, const Words& words, bool as_list) const;
  std::vector<Part> parts_of(bool system, std::size_t images, const Words& words, bool as_list) const;

  JinjaTemplate template_;
  std::string name_;
  std::map<std::string, std::string> tokens_;
};

/// As find(): throws Error where a file that is there cannot be read. But a template that is not understood, or not for
/// prompts of some kind, is a warning that names the reason and says which prompts have the form of Qwen2.5-VL instead.
/// `tell`: whether this rank prints the warning.
std::shared_ptr<const ChatTemplate> find_chat_template(const std::filesystem::path& folder, bool tell = true);

}  // namespace biqa
