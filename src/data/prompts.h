// SPDX-License-Identifier: Apache-2.0
// What the model is asked for: the tags of its answer and the words of both prompts.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace biqa {

/// The parts of an answer, in this order; tags without angle brackets.
struct Profile {
  std::string caption_tag, reasoning_tag, rating_tag;
  bool json_rating = false;  ///< the rating part holds {"rating": x} instead of x
};

/// "paper": caption, reasoning, rating. "released": caption, think, answer with a JSON object.
/// Throws Error (usage) on another name.
Profile named_profile(std::string_view name);

/// Where the caption goes in `PromptTexts::stage2_user`.
inline constexpr std::string_view kCaptionField = "{caption}";

struct PromptTexts {
  Profile profile;
  std::optional<std::string> system;  ///< nullopt: the chat template's default
  std::string user;                   ///< stage 1, behind the image
  std::optional<std::string> stage2_system;
  std::string stage2_user;  ///< holds kCaptionField
};

/// Texts that ask a general instruction-tuned model for the parts of `profile`.
PromptTexts default_prompts(const Profile& profile);

/// `stage2_user` with every kCaptionField replaced by `caption`, once: a field inside the caption stays as it
/// is. Throws Error (usage) if there is no field.
std::string fill(std::string_view stage2_user, std::string_view caption);

}  // namespace biqa
