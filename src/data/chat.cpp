// SPDX-License-Identifier: Apache-2.0
#include "data/chat.h"

#include <glog/logging.h>

#include "core/error.h"

namespace biqa {
namespace {

void append_text(const Tokenizer& tokenizer, std::string_view text, std::vector<std::int64_t>& ids) {
  const std::vector<std::int64_t> more = tokenizer.encode(text, Tokenizer::AddedTokens::plain_text);
  ids.insert(ids.end(), more.begin(), more.end());
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
  return {find("<|im_start|>", -1), find("<|im_end|>", -1), find("<|vision_start|>", model.vision_start),
          find("<|vision_end|>", model.vision_end), find("<|image_pad|>", model.image_pad)};
}

Prompt render_prompt(const Tokenizer& tokenizer, const ChatIds& ids, const std::optional<std::string>& system,
                     std::span<const std::int64_t> tokens_per_image, std::string_view user_text) {
  Prompt prompt;
  std::vector<std::int64_t>& out = prompt.ids;
  // Each stretch between two control tokens is encoded as one string, as merges may cross its parts.
  const auto open_turn = [&](const std::string& text) {
    out.push_back(ids.im_start);
    append_text(tokenizer, text, out);
  };
  const auto close_turn = [&] {
    out.push_back(ids.im_end);
    append_text(tokenizer, "\n", out);
  };
  open_turn("system\n" + system.value_or(std::string(kDefaultSystem)));
  close_turn();
  if (tokens_per_image.empty()) {
    open_turn("user\n" + std::string(user_text));
  } else {
    open_turn("user\n");
    for (const std::int64_t tokens : tokens_per_image) {
      CHECK_GT(tokens, 0);
      out.push_back(ids.vision_start);
      out.insert(out.end(), static_cast<std::size_t>(tokens), ids.image_pad);
      out.push_back(ids.vision_end);
    }
    append_text(tokenizer, user_text, out);
  }
  close_turn();
  open_turn("assistant\n");
  return prompt;
}

std::vector<std::int64_t> completion_ids(const Tokenizer& tokenizer, const ChatIds& ids,
                                         std::string_view text) {
  std::vector<std::int64_t> out = tokenizer.encode(text, Tokenizer::AddedTokens::plain_text);
  out.push_back(ids.im_end);
  return out;
}

}  // namespace biqa
