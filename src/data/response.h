// SPDX-License-Identifier: Apache-2.0
// Reading what the model wrote. Everything here is total: any bytes give an answer, never an error.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "data/prompts.h"

namespace biqa {

/// A stage-1 completion taken apart. A part is there when its opening and its closing tag occur exactly once
/// each, in this order; a tag written twice is ambiguous, and no guess is made. Other parts may be missing or
/// out of place, so a rating can count where the format does not.
struct Stage1Response {
  /// The completion is the three parts in the order of the profile with nothing but white space around them;
  /// caption and reasoning are not blank, and the rating is a number.
  bool format_ok = false;
  std::optional<std::string> caption, reasoning;  ///< white space at the ends removed
  /// Digits with an optional minus before and an optional fraction behind ("3", "3.25", "-1.0"), white space
  /// around; within {"rating": …} where the profile says so. No exponent, sign "+", "inf", "nan",
  /// hexadecimal, unit or word. Not clipped to 1..5.
  std::optional<double> rating;
};
/// `text`: the completion without its end token.
Stage1Response parse_stage1(const Profile& profile, std::string_view text);

/// The rating part of a stage-2 completion, by the same rules.
std::optional<double> parse_stage2(const Profile& profile, std::string_view text);

/// The scale that answers are asked for, both ends on it.
inline constexpr double kLeastRating = 1, kMostRating = 5;
/// A rating that is not on the scale; where there is none, nothing is off it.
bool out_of_scale(const std::optional<double>& rating);
/// Whether the rating part of an answer of either stage is a number off the scale that is written so that it counts
/// as no rating: with an exponent or a plus, infinite, or too long for a double.
bool holds_number_off_scale(const Profile& profile, std::string_view text);
/// What every program marks and counts as out of scale: an answer of either stage whose rating is, or which holds such a
/// number in its place.
bool answer_out_of_scale(const Profile& profile, const std::optional<double>& rating, std::string_view text);

/// What stands before the opening tag of the rating part; nullopt if that tag does not occur exactly once.
std::optional<std::string_view> before_rating(const Profile& profile, std::string_view text);

/// Leak guard: the caption without the numerals that look like a rating. Such a numeral is a decimal number
/// on 1..5 (point, or comma before one or two digits) that is not part of a word, a longer integer or a
/// percentage: "3", "4.25", "3,5", both numbers of "4/5", all of "3.5,4.0", but not "4K", "2nd", "f2.8",
/// "1080", "1,000", "3%". Numbers in words are not seen.
std::string strip_ratings(std::string_view caption);

/// Whether the caption holds a numeral (as above) that gives the rating away: equal to it after rounding to
/// the numeral's decimals; a numeral without decimals counts only for a rating within 0.005 of it.
bool leaks_rating(std::string_view caption, double rating);

/// Number of runs of characters other than white space.
std::size_t word_count(std::string_view text);

}  // namespace biqa
