// SPDX-License-Identifier: Apache-2.0
// Assigns the tokens of a first-stage completion to its parts: caption, reasoning and rating.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/names.h"
#include "data/prompts.h"
#include "data/tokenizer.h"

namespace biqa {

/// A part of a trajectory that can earn rewards of its own.
enum class CompletionPart : std::uint8_t {
  caption,
  reasoning,
  rating,
  second_stage  ///< the whole second-stage completion
};
inline constexpr std::array kCompletionPartNames{
    Named<CompletionPart>{"caption", CompletionPart::caption},
    Named<CompletionPart>{"reasoning", CompletionPart::reasoning},
    Named<CompletionPart>{"rating", CompletionPart::rating},
    Named<CompletionPart>{"second_stage", CompletionPart::second_stage}};
inline constexpr std::size_t kCompletionParts = kCompletionPartNames.size();

/// The part of each token of a first-stage completion, or nothing if the completion has a wrong format
/// (Stage1Response::format_ok).
///
/// The parts cover the whole completion, tags included. The caption reaches from the start to the end of its closing
/// tag, the reasoning from there to the end of its own closing tag, and the rating has the rest. A token belongs to the
/// part with its first byte, even if it reaches into the next part. A token without bytes, such as the end token,
/// belongs to the part with the next byte, and after the last byte to the rating. Offsets are those of the tokens' bytes
/// (Tokenizer::bytes_of), so a character that several tokens form is no special case.
///
/// `ids`: the completion, with or without its end token. `end_tokens`: the model's end tokens.
std::vector<CompletionPart> parts_of_tokens(const Tokenizer& tokenizer, const Profile& profile,
                                            std::span<const std::int64_t> end_tokens,
                                            std::span<const std::int64_t> ids);

}  // namespace biqa
