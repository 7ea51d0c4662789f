// SPDX-License-Identifier: Apache-2.0
#include "data/chat.h"

#include <glog/logging.h>

#include "core/error.h"
#include "data/unicode.h"

namespace biqa {
namespace {

void append_text(const Tokenizer& tokenizer, std::string_view text, std::vector<std::int64_t>& ids) {
  const std::vector<std::int64_t> more = tokenizer.encode(text, Tokenizer::AddedTokens::plain_text);
  ids.insert(ids.end(), more.begin(), more.end());
}

/// Joins texts and control tokens. All text between two control tokens is encoded as one string, because merges may
/// cross its parts.
class Writer {
 public:
  Writer(const Tokenizer& tokenizer, std::vector<std::int64_t>& ids) : tokenizer_(tokenizer), ids_(ids) {}
  void add(std::string_view text) { stretch_ += text; }
  void add(std::int64_t control, std::int64_t times) {
    end();
    ids_.insert(ids_.end(), static_cast<std::size_t>(times), control);
  }
  void end() {
    append_text(tokenizer_, stretch_, ids_);
    stretch_.clear();
  }

 private:
  const Tokenizer& tokenizer_;
  std::vector<std::int64_t>& ids_;
  std::string stretch_;
};

struct Control {
  std::size_t begin, end;
  std::int64_t id;
};
/// Finds the first added token, such as <|im_start|>, in a template's own text, and the text before it. Id −1 if there
/// is none.
Control first_control(const Tokenizer& tokenizer, std::string_view text) {
  for (std::size_t begin = text.find('<'); begin != std::string_view::npos;
       begin = text.find('<', begin + 1)) {
    const std::size_t end = text.find('>', begin);
    if (end == std::string_view::npos) break;
    const std::string_view spelled = text.substr(begin, end + 1 - begin);
    const auto id = tokenizer.id_of(spelled);
    const std::vector<std::int64_t> alone{id.value_or(-1)};
    if (id && tokenizer.encode(spelled) == alone &&
        tokenizer.encode(spelled, Tokenizer::AddedTokens::plain_text) != alone)
      return {begin, end + 1, *id};
  }
  return {text.size(), text.size(), -1};
}

/// Qwen2.5-VL's own template.
std::vector<ChatTemplate::Part> usual_parts(bool system, std::size_t images) {
  using Kind = ChatTemplate::Part::Kind;
  std::vector<ChatTemplate::Part> parts{{Kind::written, "<|im_start|>system\n", false}};
  if (system)
    parts.push_back({Kind::system, "", false});
  else
    parts.back().text += kDefaultSystem;
  std::string turn = "<|im_end|>\n<|im_start|>user\n";
  for (std::size_t i = 0; i < images; ++i) turn += "<|vision_start|><|image_pad|><|vision_end|>";
  parts.push_back({Kind::written, turn, false});
  parts.push_back({Kind::user, "", false});
  parts.push_back({Kind::written, "<|im_end|>\n<|im_start|>assistant\n", false});
  return parts;
}

std::vector<ChatTemplate::Part> parts_of(const ChatIds& ids, const std::optional<std::string>& system,
                                         std::size_t images, std::string_view user_text) {
  if (ids.form != nullptr) {
    try {
      return ids.form->parts(system.has_value(), images, {system ? *system : std::string_view(), user_text});
    } catch (const Error&) {
      if (ids.form->follows(system.has_value(), images)) throw;  // only these texts are refused
    }
  }
  // find_chat_template has warned of it.
  return usual_parts(system.has_value(), images);
}

}  // namespace

ChatIds find_chat_ids(const Tokenizer& tokenizer, const ModelTokenIds& model) {
  const auto find = [&](const char* token, std::int64_t of_model) {
    const std::optional<std::int64_t> id = tokenizer.id_of(token);
    if (!id || !tokenizer.is_special(*id)) {
      fail(
          "cannot use the tokenizer: {} is not among its special tokens; use the tokenizer of a Qwen2.5-VL "
          "checkpoint",
          token);
    }
    if (of_model >= 0 && of_model != *id) {
      fail(
          "cannot use the tokenizer: {} has id {}, but config.json says {}; use the tokenizer of the same "
          "checkpoint",
          token, *id, of_model);
    }
    return *id;
  };
  if (model.vocab_size >= 0 && tokenizer.size() > model.vocab_size) {
    fail(
        "cannot use the tokenizer: its largest id is {}, but vocab_size of config.json is {}; use the "
        "tokenizer of the same "
        "checkpoint",
        tokenizer.size() - 1, model.vocab_size);
  }
  return {find("<|im_start|>", -1),
          find("<|im_end|>", -1),
          find("<|vision_start|>", model.vision_start),
          find("<|vision_end|>", model.vision_end),
          find("<|image_pad|>", model.image_pad),
          nullptr};
}

Prompt render_prompt(const Tokenizer& tokenizer, const ChatIds& ids, const std::optional<std::string>& system,
                     std::span<const std::int64_t> tokens_per_image, std::string_view user_text) {
  Prompt prompt;
  Writer writer(tokenizer, prompt.ids);
  std::size_t image = 0;
  for (const ChatTemplate::Part& part : parts_of(ids, system, tokens_per_image.size(), user_text)) {
    if (part.kind != ChatTemplate::Part::Kind::written) {
      const std::string_view text = part.kind == ChatTemplate::Part::Kind::user ? user_text : *system;
      writer.add(part.trimmed ? without_blanks(text) : text);
      continue;
    }
    for (std::string_view rest = part.text; !rest.empty();) {
      const auto [begin, end, id] = first_control(tokenizer, rest);
      writer.add(rest.substr(0, begin));
      if (id < 0) break;
      const bool is_image = id == ids.image_pad;
      if (is_image) CHECK_GT(tokens_per_image[image], 0);
      writer.add(id, is_image ? tokens_per_image[image++] : 1);
      rest.remove_prefix(end);
    }
  }
  writer.end();
  CHECK_EQ(image, tokens_per_image.size());
  return prompt;
}

std::vector<std::int64_t> completion_ids(const Tokenizer& tokenizer, const ChatIds& ids,
                                         std::string_view text) {
  std::vector<std::int64_t> out = tokenizer.encode(text, Tokenizer::AddedTokens::plain_text);
  out.push_back(ids.im_end);
  return out;
}

}  // namespace biqa
