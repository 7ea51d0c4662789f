// SPDX-License-Identifier: Apache-2.0
// ROUGE-1 and ROUGE-L (Lin, "ROUGE: a package for automatic evaluation of summaries", 2004), equal to the Python
// package rouge_score: lower case, words separated by characters outside [a-z0-9], optional Porter stemming of words
// longer than three characters.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace biqa {

/// Values are 0 where undefined (an empty text).
struct Rouge {
  double precision = 0, recall = 0, f1 = 0;
};

/// Clipped unigram overlap.
Rouge rouge1(std::string_view reference, std::string_view hypothesis, bool stem = false);
/// Longest common subsequence. Time is proportional to the product of both lengths in words.
Rouge rougel(std::string_view reference, std::string_view hypothesis, bool stem = false);

/// Splits a text into the words that ROUGE compares.
std::vector<std::string> rouge_words(std::string_view text, bool stem = false);
/// Stem of a lower-case word, as NLTK's PorterStemmer in its default mode (Porter's algorithm with NLTK's extensions).
std::string porter_stem(std::string_view word);

}  // namespace biqa
