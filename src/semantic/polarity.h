// SPDX-License-Identifier: Apache-2.0
// Whether two texts say the same about the quality of an image: for each aspect of quality, whether it is good or bad.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace biqa {

/// What a text says of each aspect of a lexicon: +1 good, -1 bad, 0 if both are in balance, nothing if it does not
/// mention the aspect.
using AspectSigns = std::vector<std::optional<int>>;

/// Terms about image quality (assets/lexicon/quality.txt describes the format).
class Lexicon {
 public:
  /// Throws Error naming file and line for a line that is no entry, and for a lexicon without aspects.
  static Lexicon parse(std::string_view text, const std::string& file);
  static Lexicon open(const std::filesystem::path& file);
  /// assets/lexicon/quality.txt, as this program was built.
  static const Lexicon& built_in();

  /// In the order of their first entry.
  const std::vector<std::string>& aspects() const { return aspects_; }

  /// The sign of an aspect is that of the mean over its mentions in the text. docs/evaluation.md has the rules.
  AspectSigns signs_of(std::string_view text) const;

 private:
  enum class Kind : std::uint8_t { aspect, judgement, negation, absence, clause };
  struct Word {
    std::string text;
    bool begins = false;  ///< stands for all words that begin so
  };
  struct Entry {
    Kind kind = Kind::aspect;
    std::size_t aspect = 0;
    int sign = 0;
    std::vector<Word> words;
  };
  struct Reader;  // of a text

  void add(std::string_view line, const std::string& where);
  const Entry* find(const std::vector<std::string>& words, std::size_t at) const;

  std::vector<std::string> aspects_;
  std::vector<Entry> entries_;
};

/// Agreement of two texts in 0 … 1: Σ m / (B + ½ O). B counts the aspects that both mention, O those that one mentions.
/// m is 1 for an aspect with the same sign in both texts, ½ if just one of the signs is 0, and 0 for opposite signs. NaN
/// if neither mentions an aspect. This is the Dice coefficient of the mentioned aspects if all signs are equal.
double polarity_agreement(const AspectSigns& a, const AspectSigns& b);

/// Whether the text mentions an aspect.
bool mentions_any(const AspectSigns& signs);

}  // namespace biqa
