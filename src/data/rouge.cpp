// SPDX-License-Identifier: Apache-2.0
#include "data/rouge.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <unordered_map>

namespace biqa {
namespace {

// ---- Porter's stemmer (Porter, "An algorithm for suffix stripping", 1980) with the changes of NLTK's
// default mode ----

bool is_vowel(char c) {
  return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u';
}

/// Whether each letter is a consonant. A "y" is a consonant at the start and after a vowel.
std::vector<bool> consonants(std::string_view word) {
  std::vector<bool> flags;
  for (const char c : word) flags.push_back(c == 'y' ? flags.empty() || !flags.back() : !is_vowel(c));
  return flags;
}

/// Number of times that a consonant follows a vowel (Porter's m).
int measure(std::string_view word) {
  const std::vector<bool> flags = consonants(word);
  int count = 0;
  for (std::size_t i = 1; i < flags.size(); ++i) count += !flags[i - 1] && flags[i] ? 1 : 0;
  return count;
}

bool has_vowel(std::string_view word) {
  const std::vector<bool> flags = consonants(word);
  return std::find(flags.begin(), flags.end(), false) != flags.end();
}

bool ends_in_consonant(std::string_view word) {
  return !word.empty() && consonants(word).back();
}

bool ends_in_double_consonant(std::string_view word) {
  const std::size_t n = word.size();
  return n >= 2 && word[n - 1] == word[n - 2] && ends_in_consonant(word);
}

/// Whether the word ends in consonant, vowel, consonant other than w, x, y; or consists of a vowel and a consonant.
bool ends_short(std::string_view word) {
  const std::vector<bool> flags = consonants(word);
  const std::size_t n = word.size();
  if (n == 2) return !flags[0] && flags[1];
  return n >= 3 && flags[n - 3] && !flags[n - 2] && flags[n - 1] && word[n - 1] != 'w' &&
         word[n - 1] != 'x' && word[n - 1] != 'y';
}

std::string_view without(std::string_view word, std::size_t letters) {
  return word.substr(0, word.size() - letters);
}

/// Replaces `suffix` if the stem before it has a measure above `above`.
struct Rule {
  std::string_view suffix, replacement;
};

/// The first rule whose suffix matches decides. Later rules are not tried, even if its condition fails.
std::string apply(std::string_view word, std::initializer_list<Rule> rules, int above) {
  for (const Rule& rule : rules) {
    if (!word.ends_with(rule.suffix)) continue;
    const std::string_view stem = without(word, rule.suffix.size());
    const int order = rule.suffix == "logi" ? measure(without(word, 3)) : measure(stem);
    const bool blocked = rule.suffix == "ion" && !stem.ends_with('s') && !stem.ends_with('t');
    if (order > above && !blocked) return std::string(stem).append(rule.replacement);
    break;
  }
  return std::string(word);
}

/// Plurals.
std::string step1a(const std::string& word) {
  if (word.size() == 4 && word.ends_with("ies")) return word.substr(0, 3);
  return apply(word, {{"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}}, -1);
}

/// Past tenses and -ing.
std::string step1b(const std::string& word) {
  if (word.ends_with("ied")) return word.substr(0, word.size() - (word.size() == 4 ? 1 : 2));
  if (word.ends_with("eed")) return apply(word, {{"eed", "ee"}}, 0);
  for (const std::string_view suffix : {"ed", "ing"}) {
    if (!word.ends_with(suffix)) continue;
    const std::string stem(without(word, suffix.size()));
    if (!has_vowel(stem)) continue;
    if (stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz")) return stem + "e";
    if (ends_in_double_consonant(stem)) {
      const char last = stem.back();
      return last == 'l' || last == 's' || last == 'z' ? stem : stem.substr(0, stem.size() - 1);
    }
    return measure(stem) == 1 && ends_short(stem) ? stem + "e" : stem;
  }
  return word;
}

std::string step1c(std::string word) {
  if (word.size() > 2 && word.ends_with('y') && ends_in_consonant(without(word, 1))) word.back() = 'i';
  return word;
}

std::string step2(const std::string& word) {
  if (word.ends_with("alli") && measure(without(word, 4)) > 0) return step2(word.substr(0, word.size() - 2));
  return apply(
      word, {{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"}, {"anci", "ance"}, {"izer", "ize"},
             {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"}, {"eli", "e"},     {"ousli", "ous"},
             {"ization", "ize"}, {"ation", "ate"},   {"ator", "ate"},  {"alism", "al"},  {"iveness", "ive"},
             {"fulness", "ful"}, {"ousness", "ous"}, {"aliti", "al"},  {"iviti", "ive"}, {"biliti", "ble"},
             {"fulli", "ful"},   {"logi", "log"}},
      0);
}

std::string step3(const std::string& word) {
  return apply(word,
               {{"icate", "ic"},
                {"ative", ""},
                {"alize", "al"},
                {"iciti", "ic"},
                {"ical", "ic"},
                {"ful", ""},
                {"ness", ""}},
               0);
}

std::string step4(const std::string& word) {
  return apply(word,
               {{"al", ""},
                {"ance", ""},
                {"ence", ""},
                {"er", ""},
                {"ic", ""},
                {"able", ""},
                {"ible", ""},
                {"ant", ""},
                {"ement", ""},
                {"ment", ""},
                {"ent", ""},
                {"ion", ""},
                {"ou", ""},
                {"ism", ""},
                {"ate", ""},
                {"iti", ""},
                {"ous", ""},
                {"ive", ""},
                {"ize", ""}},
               1);
}

std::string step5(std::string word) {
  if (word.ends_with('e')) {
    const std::string_view stem = without(word, 1);
    const int order = measure(stem);
    if (order > 1 || (order == 1 && !ends_short(stem))) word.pop_back();
  }
  if (word.ends_with("ll") && measure(without(word, 1)) > 1) word.pop_back();
  return word;
}

// ---- words ----

/// Python's str.lower() maps just two characters outside ASCII to ones with a letter a-z: İ to i and a
/// combining dot, and the Kelvin sign to k.
std::string lower_case(std::string_view text) {
  std::string lower;
  lower.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string_view rest = text.substr(i);
    if (rest.starts_with("\xC4\xB0")) {
      lower += "i ";
      i += 1;
    } else if (rest.starts_with("\xE2\x84\xAA")) {
      lower += 'k';
      i += 2;
    } else {
      const char c = text[i];
      lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  return lower;
}

Rouge from_overlap(std::size_t overlap, std::size_t reference, std::size_t hypothesis) {
  Rouge result;
  if (overlap == 0) return result;
  result.precision = static_cast<double>(overlap) / static_cast<double>(hypothesis);
  result.recall = static_cast<double>(overlap) / static_cast<double>(reference);
  result.f1 = 2 * result.precision * result.recall / (result.precision + result.recall);
  return result;
}

}  // namespace

std::string porter_stem(std::string_view word) {
  static constexpr std::array<std::array<std::string_view, 2>, 13> kIrregular{{{"sky", "sky"},
                                                                               {"skies", "sky"},
                                                                               {"dying", "die"},
                                                                               {"lying", "lie"},
                                                                               {"tying", "tie"},
                                                                               {"news", "news"},
                                                                               {"innings", "inning"},
                                                                               {"inning", "inning"},
                                                                               {"outings", "outing"},
                                                                               {"outing", "outing"},
                                                                               {"cannings", "canning"},
                                                                               {"canning", "canning"},
                                                                               {"howe", "howe"}}};
  for (const auto& [form, stem] : kIrregular) {
    if (word == form) return std::string(stem);
  }
  if (word.size() <= 2 || word == "proceed" || word == "exceed" || word == "succeed")
    return std::string(word);
  return step5(step4(step3(step2(step1c(step1b(step1a(std::string(word))))))));
}

std::vector<std::string> rouge_words(std::string_view text, bool stem) {
  const std::string lower = lower_case(text);
  std::vector<std::string> words;
  std::string word;
  const auto finish = [&] {
    if (word.empty()) return;
    words.push_back(stem && word.size() > 3 ? porter_stem(word) : word);
    word.clear();
  };
  for (const char c : lower) {
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
      word += c;
    } else {
      finish();
    }
  }
  finish();
  return words;
}

Rouge rouge1(std::string_view reference, std::string_view hypothesis, bool stem) {
  const std::vector<std::string> reference_words = rouge_words(reference, stem);
  const std::vector<std::string> hypothesis_words = rouge_words(hypothesis, stem);
  std::unordered_map<std::string_view, std::size_t> left;
  for (const std::string& word : reference_words) ++left[word];
  std::size_t overlap = 0;
  for (const std::string& word : hypothesis_words) {
    const auto found = left.find(word);
    if (found == left.end() || found->second == 0) continue;
    --found->second;
    ++overlap;
  }
  return from_overlap(overlap, reference_words.size(), hypothesis_words.size());
}

Rouge rougel(std::string_view reference, std::string_view hypothesis, bool stem) {
  const std::vector<std::string> reference_words = rouge_words(reference, stem);
  const std::vector<std::string> hypothesis_words = rouge_words(hypothesis, stem);
  // longest[j]: length of the longest common subsequence of the reference words so far and the first j hypothesis
  // words.
  std::vector<std::size_t> longest(hypothesis_words.size() + 1, 0);
  for (const std::string& word : reference_words) {
    std::size_t diagonal = 0;
    for (std::size_t j = 1; j <= hypothesis_words.size(); ++j) {
      const std::size_t above = longest[j];
      longest[j] = word == hypothesis_words[j - 1] ? diagonal + 1 : std::max(above, longest[j - 1]);
      diagonal = above;
    }
  }
  return from_overlap(longest.back(), reference_words.size(), hypothesis_words.size());
}

}  // namespace biqa
