// SPDX-License-Identifier: Apache-2.0
// Builds prompts as token ids with the chat template of the model folder, or with that of Qwen2.5-VL if it has none.
// Control tokens are inserted as ids, never through a user's text. So a user's text cannot contain an image token or
// end a turn.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat_template.h"
#include "data/tokenizer.h"

namespace biqa {

/// The system message of Qwen2.5-VL's template for prompts without one.
inline constexpr std::string_view kDefaultSystem = "You are a helpful assistant.";

/// Ids of the control tokens, and the template that places them.
struct ChatIds {
  std::int64_t im_start, im_end, vision_start, vision_end, image_pad;
  std::shared_ptr<const ChatTemplate> form;  ///< of the model folder; nullptr: that of Qwen2.5-VL
};

/// Token ids in a model's config.json; -1: absent there and not compared.
struct ModelTokenIds {
  std::int64_t vocab_size = -1;  ///< rows of the embedding
  std::int64_t vision_start = -1, vision_end = -1, image_pad = -1;
};

/// Looks up the control tokens by their text. Throws Error if one is absent or has another id in the model. Also throws
/// Error if the tokenizer has more ids than the model has rows.
ChatIds find_chat_ids(const Tokenizer& tokenizer, const ModelTokenIds& model);

/// A prompt, ready for the model.
struct Prompt {
  /// One `image_pad` per image token: `tokens_per_image[i]` copies in a row for image i.
  std::vector<std::int64_t> ids;
};

/// Renders the system message, one user turn (first the images, then the text) and the beginning of the assistant's
/// turn. `system`: nullopt means the template's default, which may be none. If the template cannot render such a
/// prompt, that of Qwen2.5-VL is used (find_chat_template warns). `tokens_per_image`: merged patches of each image, all
/// positive. Both texts are plain text: a literal "<|image_pad|>" in them becomes ordinary tokens.
Prompt render_prompt(const Tokenizer& tokenizer, const ChatIds& ids, const std::optional<std::string>& system,
                     std::span<const std::int64_t> tokens_per_image, std::string_view user_text);

/// Ids of a completion that follows a prompt: the text as plain text, then `im_end`.
std::vector<std::int64_t> completion_ids(const Tokenizer& tokenizer, const ChatIds& ids,
                                         std::string_view text);

}  // namespace biqa
