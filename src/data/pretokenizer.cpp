// SPDX-License-Identifier: Apache-2.0
#include "data/pretokenizer.h"

#include "data/unicode.h"

namespace biqa {
namespace {

bool is_newline(char c) {
  return c == '\r' || c == '\n';
}

/// The end of the run of `wanted` characters that begins at `position`.
std::size_t run_end(std::string_view text, std::size_t position, CharClass wanted) {
  while (position < text.size()) {
    const CodePoint next = code_point_at(text, position);
    if (char_class(next.value) != wanted) break;
    position += next.length;
  }
  return position;
}

bool class_at(std::string_view text, std::size_t position, CharClass wanted) {
  return position < text.size() && char_class(code_point_at(text, position).value) == wanted;
}

/// Length of 's 't 're 've 'm 'll 'd at the start of `text` in any case, or 0. U+017F (long s) folds to s.
std::size_t contraction_length(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  const auto lower = [&](std::size_t i) {
    const char c = i < text.size() ? text[i] : '\0';
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  switch (lower(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return lower(2) == 'e' ? 3 : 0;
    case 'l':
      return lower(2) == 'l' ? 3 : 0;
    default:
      return text.substr(1).starts_with("\u017F") ? 3 : 0;
  }
}

/// Length of the white space at the start of `text`, if it does not belong to a letter or symbol after it.
std::size_t space_length(std::string_view text) {
  const std::size_t end = run_end(text, 0, CharClass::space);
  const std::size_t newline = text.substr(0, end).find_last_of("\r\n");
  if (newline != std::string_view::npos) return newline + 1;
  if (end == text.size()) return end;
  // \s+(?!\S) leaves the last white space to the next word. If there is only one, \s+ takes it.
  std::size_t last = end - 1;
  while ((static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
  return last == 0 ? end : last;
}

}  // namespace

std::size_t first_word_length(std::string_view text) {
  if (const std::size_t contraction = contraction_length(text)) return contraction;
  const CodePoint first = code_point_at(text, 0);
  const CharClass first_class = char_class(first.value);
  if (first_class == CharClass::letter) return run_end(text, first.length, CharClass::letter);
  if (first_class == CharClass::number) return first.length;
  if (!is_newline(text[0]) && class_at(text, first.length, CharClass::letter)) {
    return run_end(text, first.length, CharClass::letter);
  }
  const std::size_t symbols = text[0] == ' ' ? 1 : 0;
  if (class_at(text, symbols, CharClass::other)) {
    std::size_t end = run_end(text, symbols, CharClass::other);
    while (end < text.size() && is_newline(text[end])) ++end;
    return end;
  }
  return space_length(text);
}

}  // namespace biqa
