// SPDX-License-Identifier: Apache-2.0
#include "data/unicode.h"

#include <glog/logging.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

namespace biqa {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
/// Lead byte of U+0300. Characters below U+0300 are in form C, start a combining sequence and never combine with
/// earlier ones.
constexpr unsigned char kFirstCombiningLead = 0xCC;

unsigned char byte_at(std::string_view text, std::size_t position) {
  return static_cast<unsigned char>(text[position]);
}

bool is_ascii(char c) {
  return static_cast<unsigned char>(c) < 0x80;
}

struct Sequence {
  std::size_t length;  ///< of the character, or of the available part of an incomplete one
  bool valid;
};

/// The sequence at `position`, by the table "Well-Formed UTF-8 Byte Sequences" of the Unicode standard.
Sequence sequence_at(std::string_view bytes, std::size_t position) {
  const unsigned char lead = byte_at(bytes, position);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  const std::size_t wanted = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  std::size_t length = 1;
  while (length < wanted && position + length < bytes.size() && byte_at(bytes, position + length) >= low &&
         byte_at(bytes, position + length) <= high) {
    ++length;
    low = 0x80;
    high = 0xBF;
  }
  return {length, length == wanted};
}

/// The first invalid byte at or after `position`, or the end.
std::size_t find_invalid(std::string_view bytes, std::size_t position) {
  while (position < bytes.size()) {
    const Sequence sequence = sequence_at(bytes, position);
    if (!sequence.valid) break;
    position += sequence.length;
  }
  return position;
}

int combining_class(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

void append(std::string& out, utf8proc_int32_t code_point) {
  std::array<utf8proc_uint8_t, 4> encoded;
  const utf8proc_ssize_t length = utf8proc_encode_char(code_point, encoded.data());
  out.append(encoded.begin(), encoded.begin() + length);
}

/// Whether the upper or lower case of a character is one character, whatever stands beside it. utf8proc knows no others.
bool has_simple_case(utf8proc_int32_t code_point, LetterCase wanted) {
  constexpr utf8proc_int32_t kDottedI = 0x130, kSigma = 0x3A3;
  if (wanted == LetterCase::lower) return code_point != kDottedI && code_point != kSigma;
  // Characters with several characters in upper case also have several when they are folded.
  std::array<utf8proc_int32_t, 16> folded;
  return utf8proc_decompose_char(code_point, folded.data(), folded.size(), UTF8PROC_CASEFOLD, nullptr) == 1;
}

/// Form D of a piece of text. utf8proc_map is not used, because its ordering of marks takes quadratic time.
std::vector<utf8proc_int32_t> decomposed(std::string_view stretch) {
  std::vector<utf8proc_int32_t> points;
  points.reserve(stretch.size());
  for (std::size_t position = 0; position < stretch.size();) {
    const CodePoint next = code_point_at(stretch, position);
    position += next.length;
    std::array<utf8proc_int32_t, 16> parts;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(next.value), parts.data(), parts.size(), UTF8PROC_DECOMPOSE, nullptr);
    CHECK(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size())) << utf8proc_errmsg(count);
    points.insert(points.end(), parts.begin(), parts.begin() + count);
  }
  const auto is_mark = [](utf8proc_int32_t point) { return combining_class(point) != 0; };
  for (auto begin = points.begin(); begin != points.end();) {
    begin = std::find_if(begin, points.end(), is_mark);
    const auto end = std::find_if_not(begin, points.end(), is_mark);
    std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    begin = end;
  }
  return points;
}

/// Form C of a piece of text.
void append_nfc(std::string& out, std::string_view stretch) {
  std::vector<utf8proc_int32_t> points = decomposed(stretch);
  const utf8proc_ssize_t composed =
      utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  CHECK_GE(composed, 0) << utf8proc_errmsg(composed);
  for (utf8proc_ssize_t i = 0; i < composed; ++i) append(out, points[static_cast<std::size_t>(i)]);
}

CharClass unicode_class(char32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::number;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharClass::space;
    default:
      // White_Space also holds these control characters.
      return (code_point >= 0x09 && code_point <= 0x0D) || code_point == 0x85 ? CharClass::space
                                                                              : CharClass::other;
  }
}

}  // namespace

CharClass char_class(char32_t code_point) {
  static const std::array<CharClass, 128> ascii = [] {
    std::array<CharClass, 128> table{};
    for (char32_t c = 0; c < table.size(); ++c) table[c] = unicode_class(c);
    return table;
  }();
  return code_point < ascii.size() ? ascii[code_point] : unicode_class(code_point);
}

CodePoint code_point_at(std::string_view valid, std::size_t position) {
  const char32_t lead = byte_at(valid, position);
  if (lead < 0x80) return {lead, 1};
  const auto more = [&](std::size_t i) { return static_cast<char32_t>(byte_at(valid, position + i) & 0x3F); };
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | more(1), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | more(1) << 6 | more(2), 3};
  return {(lead & 0x07) << 18 | more(1) << 12 | more(2) << 6 | more(3), 4};
}

bool is_valid_utf8(std::string_view bytes) {
  return find_invalid(bytes, 0) == bytes.size();
}

std::string repaired_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (std::size_t position = 0; position < bytes.size();) {
    const std::size_t invalid = find_invalid(bytes, position);
    out += bytes.substr(position, invalid - position);
    position = invalid;
    if (position == bytes.size()) break;
    out += kReplacement;
    position += sequence_at(bytes, position).length;
  }
  return out;
}

std::string_view without_blanks(std::string_view text, bool left, bool right) {
  const bool valid = is_valid_utf8(text);
  /// Bytes of the blank there; 0: none.
  const auto blank_at = [&](std::size_t at) -> std::size_t {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte >= 0x80 && !valid) return 0;
    const CodePoint point = byte < 0x80 ? CodePoint{byte, 1} : code_point_at(text, at);
    const bool separator = point.value >= 0x1C && point.value <= 0x1F;
    return separator || char_class(point.value) == CharClass::space ? point.length : 0;
  };
  while (left && !text.empty()) {
    const std::size_t length = blank_at(0);
    if (length == 0) break;
    text.remove_prefix(length);
  }
  while (right && !text.empty()) {
    std::size_t at = text.size() - 1;
    while (valid && at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U) --at;
    if (blank_at(at) == 0) break;
    text.remove_suffix(text.size() - at);
  }
  return text;
}

std::optional<std::string> in_case(std::string_view valid, LetterCase wanted) {
  std::string out;
  out.reserve(valid.size());
  for (std::size_t position = 0; position < valid.size();) {
    const CodePoint next = code_point_at(valid, position);
    position += next.length;
    const auto point = static_cast<utf8proc_int32_t>(next.value);
    if (!has_simple_case(point, wanted)) return std::nullopt;
    append(out, wanted == LetterCase::upper ? utf8proc_toupper(point) : utf8proc_tolower(point));
  }
  return out;
}

std::string to_nfc(std::string_view valid) {
  std::string out;
  out.reserve(valid.size());
  const auto may_change = [](char c) { return static_cast<unsigned char>(c) >= kFirstCombiningLead; };
  // Only stretches from the character before a candidate up to the next ASCII character can change.
  for (std::size_t done = 0; done < valid.size();) {
    const auto candidate =
        std::find_if(valid.begin() + static_cast<std::ptrdiff_t>(done), valid.end(), may_change);
    auto begin = static_cast<std::size_t>(candidate - valid.begin());
    const auto end = static_cast<std::size_t>(std::find_if(candidate, valid.end(), is_ascii) - valid.begin());
    if (begin > done) {
      do --begin;
      while (begin > done && (byte_at(valid, begin) & 0xC0) == 0x80);
    }
    out += valid.substr(done, begin - done);
    append_nfc(out, valid.substr(begin, end - begin));
    done = end;
  }
  return out;
}

bool is_punctuation(char32_t code_point) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool is_control(char32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
      return true;
    default:
      return false;
  }
}

std::string without_accents(std::string_view valid) {
  if (std::all_of(valid.begin(), valid.end(), is_ascii)) return std::string(valid);
  std::string out;
  out.reserve(valid.size());
  for (const utf8proc_int32_t point : decomposed(valid)) {
    if (utf8proc_category(point) != UTF8PROC_CATEGORY_MN) append(out, point);
  }
  return out;
}

std::string lower_each(std::string_view valid) {
  constexpr char32_t kDottedI = 0x130;
  std::string out;
  out.reserve(valid.size());
  for (std::size_t position = 0; position < valid.size();) {
    const CodePoint next = code_point_at(valid, position);
    position += next.length;
    if (next.value == kDottedI)
      out += "i\xCC\x87";
    else
      append(out, utf8proc_tolower(static_cast<utf8proc_int32_t>(next.value)));
  }
  return out;
}

}  // namespace biqa
