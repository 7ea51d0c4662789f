// SPDX-License-Identifier: Apache-2.0
// Unicode functions of the tokenizer, based on libutf8proc. Its Unicode version differs from that of Hugging Face's
// tokenizers 0.23: with libutf8proc 2.8 (Unicode 15), to_nfc orders 54 marks by classes that Hugging Face's older
// tables do not have. All other characters up to U+33000 are treated equally.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace biqa {

/// The classes in Qwen2's split expression: \p{L}, \p{N}, \s (White_Space) and the rest.
enum class CharClass : std::uint8_t { letter, number, space, other };

CharClass char_class(char32_t code_point);

/// One character of a text.
struct CodePoint {
  char32_t value;
  std::size_t length;  ///< bytes of its UTF-8 form
};

/// The character that starts at byte `position` of `valid`, which must be valid UTF-8 with a character there.
CodePoint code_point_at(std::string_view valid, std::size_t position);

bool is_valid_utf8(std::string_view bytes);

/// `bytes` with each maximal invalid sequence replaced by U+FFFD (Unicode, "U+FFFD Substitution of Maximal
/// Subparts", as Rust's from_utf8_lossy does).
std::string repaired_utf8(std::string_view bytes);

/// `text` without the characters that Python's str.strip() removes: white space and the separators U+001C to U+001F. If
/// it is not valid UTF-8, only ASCII characters are removed.
std::string_view without_blanks(std::string_view text, bool left = true, bool right = true);

enum class LetterCase : std::uint8_t { lower, upper };
/// The text that Python's str.lower() or str.upper() makes of valid UTF-8. Nothing if the text has a character whose other
/// case is several characters (the upper case of ß is SS) or depends on its neighbours (the lower case of Σ).
std::optional<std::string> in_case(std::string_view valid, LetterCase wanted);

/// Normalisation form C of valid UTF-8. Takes time n log n for any text.
std::string to_nfc(std::string_view valid);

// Functions of BERT's tokenizer.

/// Whether the general category is P: punctuation.
bool is_punctuation(char32_t code_point);
/// Whether the character is a control, a format character or a surrogate, or for private use.
bool is_control(char32_t code_point);
/// Normalisation form D of valid UTF-8, without nonspacing marks (general category Mn): accents are gone.
std::string without_accents(std::string_view valid);
/// Valid UTF-8 with each character in lower case, whatever stands beside it. U+0130 becomes i and U+0307.
std::string lower_each(std::string_view valid);

}  // namespace biqa
