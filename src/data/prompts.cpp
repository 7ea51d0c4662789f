// SPDX-License-Identifier: Apache-2.0
#include "data/prompts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "data/profile_names.h"

namespace biqa {

Profile named_profile(std::string_view name) {
  if (name == "paper") return {"caption", "reasoning", "rating", false};
  if (name == "released") return {"caption", "think", "answer", true};
  if (name == "answer-number") return {"", "think", "answer", false};
  if (name == "answer-json") return {"", "think", "answer", true};
  fail_usage("prompt profile '{}': unknown; choose {}", name, fmt::join(kProfileNames, ", "));
}

PromptTexts default_prompts(const Profile& profile) {
  const std::string number =
      profile.json_rating
          ? R"(as {"rating": x}, x being a number from 1 (very bad) to 5 (excellent) with two decimals)"
          : "as a number from 1 (very bad) to 5 (excellent) with two decimals and nothing else";
  PromptTexts texts;
  texts.profile = profile;
  texts.stage2_user = fmt::format(
      "Someone who looked at a picture describes it so:\n{0}\n\n"
      "How good is the technical quality of that picture? Answer between <{1}> and </{1}> {2}.",
      kCaptionField, profile.rating_tag, number);
  if (profile.caption_tag.empty()) {
    texts.user = fmt::format(
        "Judge the technical quality of this picture. First think about blur, noise, compression, exposure, "
        "colour "
        "and contrast, between <{0}> and </{0}>. Then give the quality between <{1}> and </{1}> {2}.",
        profile.reasoning_tag, profile.rating_tag, number);
    return texts;
  }
  texts.user = fmt::format(
      "Judge the technical quality of this picture. Answer in exactly three parts, in this order, with "
      "nothing around "
      "them.\n"
      "1. Between <{0}> and </{0}>, describe what is to be seen and every fault of the picture itself: blur, "
      "noise, "
      "compression, exposure, colour, contrast. Someone who cannot see it should be able to judge its "
      "quality from "
      "your words. Do not write a rating here.\n"
      "2. Between <{1}> and </{1}>, weigh what is good against what is bad, as a person would who looks at "
      "it.\n"
      "3. Between <{2}> and </{2}>, give the quality {3}.",
      profile.caption_tag, profile.reasoning_tag, profile.rating_tag, number);
  return texts;
}

std::string fill(std::string_view stage2_user, std::string_view caption) {
  std::string filled;
  bool found = false;
  for (std::size_t at = stage2_user.find(kCaptionField); at != std::string_view::npos;
       at = stage2_user.find(kCaptionField)) {
    found = true;
    filled.append(stage2_user.substr(0, at)).append(caption);
    stage2_user.remove_prefix(at + kCaptionField.size());
  }
  if (!found) {
    fail_usage("config prompts.stage2_user: it has no {}; write {} where the caption goes", kCaptionField,
               kCaptionField);
  }
  return filled.append(stage2_user);
}

}  // namespace biqa
