// SPDX-License-Identifier: Apache-2.0
// The texts of the prompts of both stages, and the tags that completions must use.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace biqa {

/// The parts of a first-stage completion, in this order. Tags without angle brackets. An empty caption tag: no caption.
struct Profile {
  std::string caption_tag, reasoning_tag, rating_tag;
  bool json_rating = false;  ///< the rating part contains {"rating": x} instead of x
};

/// The profile of that name (data/profile_names.h).
/// Throws Error (usage) on another name.
Profile named_profile(std::string_view name);

/// Placeholder of the caption in `PromptTexts::stage2_user`.
inline constexpr std::string_view kCaptionField = "{caption}";

struct PromptTexts {
  Profile profile;
  std::optional<std::string> system;  ///< nullopt: the chat template's default
  std::string user;                   ///< first stage; follows the image
  std::optional<std::string> stage2_system;
  std::string stage2_user;  ///< contains kCaptionField
};

/// Prompts that ask a general instruction-tuned model for the parts of `profile`.
PromptTexts default_prompts(const Profile& profile);

/// Replaces every kCaptionField in `stage2_user` by `caption`. A kCaptionField inside the caption is not replaced.
/// Throws Error (usage) if there is no field.
std::string fill(std::string_view stage2_user, std::string_view caption);

}  // namespace biqa
