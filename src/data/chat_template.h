// SPDX-License-Identifier: Apache-2.0
// The chat template of a model folder, split into parts: the system message, the user's text, and the template's own
// text around them. The control tokens of images are part of the template's own text. The template is rendered with
// placeholders, so a user's text cannot become a control token. If the template tests a text, for example whether it is
// empty, the test uses the real text.
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
    bool trimmed = false;  ///< for the others: apply without_blanks()
  };

  /// Finds the template that transformers uses. It looks in this order: `chat_template` of processor_config.json,
  /// chat_template.json, chat_template.jinja, `chat_template` of tokenizer_config.json (a text, or the one named
  /// "default" in a list). nullptr if there is none. Throws Error if one cannot be read or is not supported.
  static std::shared_ptr<const ChatTemplate> find(const std::filesystem::path& folder);

  /// `tokens`: bos_token, eos_token, pad_token and unk_token of tokenizer_config.json.
  ChatTemplate(const std::string& text, const std::string& name,
               std::map<std::string, std::string> tokens = {});

  /// The texts of a conversation, for templates that depend on their content.
  struct Words {
    std::string_view system = "words", user = "words";
  };
  /// Parts of a prompt with an optional system message and one user turn (`images`, then the text), up to the beginning
  /// of the completion. Throws Error unless the template outputs each of them exactly once and complete.
  std::vector<Part> parts(bool system, std::size_t images, const Words& words) const;
  std::vector<Part> parts(bool system, std::size_t images) const { return parts(system, images, Words{}); }
  /// Whether the template can render such prompts.
  bool follows(bool system, std::size_t images) const;

 private:
  std::string rendered(bool system, std::size_t images, const Words& words, bool as_list) const;
  std::vector<Part> parts_of(bool system, std::size_t images, const Words& words, bool as_list) const;

  JinjaTemplate template_;
  std::string name_;
  std::map<std::string, std::string> tokens_;
};

/// As find(), but if the template, or a kind of prompt in it, is not supported, this warns instead of throwing. The
/// warning names the reason and the prompts that use Qwen2.5-VL's template instead. Throws Error if an existing file
/// cannot be read. `tell`: whether this rank prints the warning.
std::shared_ptr<const ChatTemplate> find_chat_template(const std::filesystem::path& folder, bool tell = true);

}  // namespace biqa
