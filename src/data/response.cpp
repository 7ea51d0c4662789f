// SPDX-License-Identifier: Apache-2.0
#include "data/response.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

namespace biqa {
namespace {

constexpr std::string_view kWhiteSpace = " \t\n\v\f\r";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

std::string_view trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kWhiteSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kWhiteSpace) - begin + 1);
}

/// Position of the only occurrence.
std::optional<std::size_t> find_only(std::string_view text, std::string_view what) {
  const std::size_t at = text.find(what);
  if (at == std::string_view::npos || text.find(what, at + 1) != std::string_view::npos) return std::nullopt;
  return at;
}

struct Part {
  std::size_t begin = 0, end = 0;  ///< tags included
  std::string_view content;        ///< trimmed
};

/// An empty tag names a part that the profile does not have.
std::optional<Part> find_part(std::string_view text, std::string_view tag) {
  if (tag.empty()) return std::nullopt;
  const std::string opening = fmt::format("<{}>", tag);
  const std::string closing = fmt::format("</{}>", tag);
  const auto begin = find_only(text, opening);
  const auto end = find_only(text, closing);
  if (!begin || !end || *end < *begin + opening.size()) return std::nullopt;
  const std::size_t from = *begin + opening.size();
  return Part{*begin, *end + closing.size(), trim(text.substr(from, *end - from))};
}

std::optional<double> parse_decimal(std::string_view text) {
  std::size_t at = text.starts_with('-') ? 1 : 0;
  const auto digits = [&] {
    const std::size_t from = at;
    while (at < text.size() && is_digit(text[at])) ++at;
    return at > from;
  };
  if (!digits()) return std::nullopt;
  if (at < text.size() && (text[at++] != '.' || !digits())) return std::nullopt;
  if (at != text.size()) return std::nullopt;
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc{} || !std::isfinite(value)) return std::nullopt;
  return value;
}

/// The rating part without the JSON that the profile puts around the number.
std::optional<std::string_view> number_in(const Profile& profile, std::string_view content) {
  if (!profile.json_rating) return content;
  for (const std::string_view expected : {"{", "\"rating\"", ":"}) {
    content = trim(content);
    if (!content.starts_with(expected)) return std::nullopt;
    content.remove_prefix(expected.size());
  }
  if (!content.ends_with('}')) return std::nullopt;
  content.remove_suffix(1);
  return trim(content);
}

std::optional<double> parse_rating(const Profile& profile, std::string_view content) {
  const auto number = number_in(profile, content);
  return number ? parse_decimal(*number) : std::nullopt;
}

struct FoundParts {
  FoundParts(const Profile& profile, std::string_view text)
      : caption(find_part(text, profile.caption_tag)),
        reasoning(find_part(text, profile.reasoning_tag)),
        rating(find_part(text, profile.rating_tag)) {}
  std::optional<Part> caption, reasoning, rating;
};

bool well_formed(const Profile& profile, std::string_view text, const FoundParts& parts) {
  const auto& [caption, reasoning, rating] = parts;
  const bool has_caption = profile.caption_tag.empty() || (caption && !caption->content.empty());
  if (!has_caption || !reasoning || reasoning->content.empty() || !rating ||
      !parse_rating(profile, rating->content)) {
    return false;
  }
  const auto blank = [&](std::size_t from, std::size_t to) {
    return from <= to && trim(text.substr(from, to - from)).empty();
  };
  const bool begins_well = caption ? blank(0, caption->begin) && blank(caption->end, reasoning->begin)
                                   : blank(0, reasoning->begin);
  return begins_well && blank(reasoning->end, rating->begin) && blank(rating->end, text.size());
}

/// A numeral that looks like a rating.
struct Numeral {
  std::size_t begin = 0, end = 0;
  double value = 0;
  int decimals = 0;
};

std::vector<Numeral> rating_numerals(std::string_view text) {
  const auto is_separator = [](char c) { return c == '.' || c == ','; };
  std::vector<Numeral> found;
  for (std::size_t at = 0; at < text.size();) {
    if (!is_digit(text[at])) {
      ++at;
      continue;
    }
    // A run of digits with single separators inside; its number ends at the second separator ("3.5,4.0").
    const std::size_t begin = at;
    std::size_t separator = std::string_view::npos;
    std::size_t number_end = std::string_view::npos;
    for (; at < text.size(); ++at) {
      if (is_digit(text[at])) continue;
      if (!is_separator(text[at]) || at + 1 == text.size() || !is_digit(text[at + 1])) break;
      if (separator == std::string_view::npos) {
        separator = at;
      } else if (number_end == std::string_view::npos) {
        number_end = at;
      }
    }
    number_end = std::min(number_end, at);
    const bool glued = (begin > 0 && (is_letter(text[begin - 1]) || is_separator(text[begin - 1]))) ||
                       (at < text.size() && (is_letter(text[at]) || text[at] == '%'));
    const std::size_t decimals = separator == std::string_view::npos ? 0 : number_end - separator - 1;
    const bool thousands = decimals > 2 && text[separator] == ',';
    if (glued || thousands) continue;
    std::string digits(text.substr(begin, number_end - begin));
    std::replace(digits.begin(), digits.end(), ',', '.');
    const std::optional<double> value = parse_decimal(digits);
    if (value && *value >= 1 && *value <= 5) {
      found.push_back({begin, at, *value, static_cast<int>(std::min<std::size_t>(decimals, 15))});
    }
  }
  return found;
}

}  // namespace

Stage1Response parse_stage1(const Profile& profile, std::string_view text) {
  Stage1Response response;
  const FoundParts parts(profile, text);
  if (parts.caption) response.caption = std::string(parts.caption->content);
  if (parts.reasoning) response.reasoning = std::string(parts.reasoning->content);
  if (parts.rating) response.rating = parse_rating(profile, parts.rating->content);
  response.format_ok = well_formed(profile, text, parts);
  return response;
}

std::optional<PartEnds> part_ends(const Profile& profile, std::string_view text) {
  const FoundParts parts(profile, text);
  if (!well_formed(profile, text, parts)) return std::nullopt;
  return PartEnds{parts.caption ? parts.caption->end : 0, parts.reasoning->end};
}

std::optional<double> parse_stage2(const Profile& profile, std::string_view text) {
  const auto rating = find_part(text, profile.rating_tag);
  return rating ? parse_rating(profile, rating->content) : std::nullopt;
}

bool out_of_scale(const std::optional<double>& rating) {
  return rating && (*rating < kLeastRating || *rating > kMostRating);
}

bool holds_number_off_scale(const Profile& profile, std::string_view text) {
  const auto part = find_part(text, profile.rating_tag);
  const auto number = part ? number_in(profile, part->content) : std::nullopt;
  if (!number || parse_decimal(*number)) return false;
  std::string_view digits = *number;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  if (digits.starts_with('-') && digits.size() < number->size()) return false;
  double value = 0;
  const char* const end = digits.data() + digits.size();
  const auto [stop, problem] = std::from_chars(digits.data(), end, value);
  if (problem == std::errc::invalid_argument || stop != end) return false;
  // Out of range: too large, or nearer to 0 than any double.
  return problem == std::errc::result_out_of_range || out_of_scale(value);
}

bool answer_out_of_scale(const Profile& profile, const std::optional<double>& rating, std::string_view text) {
  return rating ? out_of_scale(rating) : holds_number_off_scale(profile, text);
}

std::optional<std::string_view> before_rating(const Profile& profile, std::string_view text) {
  const auto at = find_only(text, fmt::format("<{}>", profile.rating_tag));
  if (!at) return std::nullopt;
  return text.substr(0, *at);
}

std::string strip_ratings(std::string_view caption) {
  std::string stripped;
  std::size_t from = 0;
  for (const Numeral& numeral : rating_numerals(caption)) {
    stripped.append(caption.substr(from, numeral.begin - from));
    from = numeral.end;
  }
  return stripped.append(caption.substr(from));
}

bool leaks_rating(std::string_view caption, double rating) {
  const std::vector<Numeral> numerals = rating_numerals(caption);
  return std::any_of(numerals.begin(), numerals.end(), [&](const Numeral& numeral) {
    const double half_unit = numeral.decimals == 0 ? 0.005 : 0.5 * std::pow(10.0, -numeral.decimals);
    return std::abs(numeral.value - rating) <= half_unit + 1e-9;
  });
}

std::size_t word_count(std::string_view text) {
  std::size_t count = 0;
  bool inside = false;
  for (const char c : text) {
    const bool blank = kWhiteSpace.find(c) != std::string_view::npos;
    count += !blank && !inside ? 1 : 0;
    inside = !blank;
  }
  return count;
}

}  // namespace biqa
