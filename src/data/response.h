// SPDX-License-Identifier: Apache-2.0
// Parses completions. Every function accepts any bytes and never fails.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "data/prompts.h"

namespace biqa {

/// A parsed first-stage completion. A part is present if its opening and its closing tag occur exactly once each, in
/// this order. A repeated tag is ambiguous, so its part counts as absent. Other parts may be missing or misplaced, so a
/// completion with a wrong format can still have a rating.
struct Stage1Response {
  /// The completion consists of the parts in the order of the profile, with only white space around them. Caption
  /// and reasoning are not blank, and the rating is a number.
  bool format_ok = false;
  std::optional<std::string> caption, reasoning;  ///< without white space at both ends
  /// Digits with an optional minus sign and an optional fraction ("3", "3.25", "-1.0"); white space around them is
  /// allowed. Inside {"rating": …} if the profile says so. No exponent, "+", "inf", "nan", hexadecimal number, unit or
  /// word. Not clipped to 1..5.
  std::optional<double> rating;
};
/// `text`: the completion without its end token.
Stage1Response parse_stage1(const Profile& profile, std::string_view text);

/// Where the parts of a completion with the right format end, in bytes from its start.
struct PartEnds {
  std::size_t caption = 0;    ///< behind the caption's closing tag; 0 if the profile has no caption
  std::size_t reasoning = 0;  ///< behind the closing tag of the reasoning
};
/// nullopt if parse_stage1(…).format_ok is false.
std::optional<PartEnds> part_ends(const Profile& profile, std::string_view text);

/// The rating in a second-stage completion, by the same rules.
std::optional<double> parse_stage2(const Profile& profile, std::string_view text);

/// The rating scale; both ends belong to it.
inline constexpr double kLeastRating = 1, kMostRating = 5;
/// Whether there is a rating and it is not on the scale.
bool out_of_scale(const std::optional<double>& rating);
/// Whether the rating part of a completion (of either stage) has a number outside the scale in a form that is not a
/// rating: with an exponent or a plus sign, infinite, or outside the range of a double.
bool holds_number_off_scale(const Profile& profile, std::string_view text);
/// Whether a completion (of either stage) counts as out of scale: out_of_scale(rating) or holds_number_off_scale(text).
bool answer_out_of_scale(const Profile& profile, const std::optional<double>& rating, std::string_view text);

/// The text before the opening tag of the rating part; nullopt if that tag does not occur exactly once.
std::optional<std::string_view> before_rating(const Profile& profile, std::string_view text);

/// Leak guard: returns the caption without numbers that look like a rating. Such a number is a decimal number from 1 to
/// 5, with a point, or with a comma before one or two digits. It is not part of a word, a longer integer or a
/// percentage. The guard finds "3", "4.25", "3,5", both numbers of "4/5" and all of "3.5,4.0". It does not find "4K",
/// "2nd", "f2.8", "1080", "1,000" and "3%". It does not find numbers written as words.
std::string strip_ratings(std::string_view caption);

/// Whether the caption contains a number (as above) that reveals the rating. A number reveals the rating if the rating
/// rounded to the number's decimals equals the number. A number without decimals counts only if the rating is within
/// 0.005 of it.
bool leaks_rating(std::string_view caption, double rating);

/// Number of words separated by white space.
std::size_t word_count(std::string_view text);

}  // namespace biqa
