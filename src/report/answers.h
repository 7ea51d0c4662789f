// SPDX-License-Identifier: Apache-2.0
// Cards: a picture and what a model said about it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "run/records.h"

namespace biqa {

/// The content of a card. Empty texts are left out.
struct AnswerCard {
  std::string title, subtitle;
  std::string picture;  ///< HTML of embedded_picture() or missing_picture()
  std::optional<double> score, rating, caption_rating;
  bool has_rating = true;          ///< whether the model was asked for a rating from the picture
  bool has_score = true;           ///< whether the scale shows a human score at all
  std::vector<std::string> flags;  ///< what is wrong, e.g. "no rating"
  std::vector<std::pair<std::string, std::string>> texts;  ///< title and text
};
std::string answer_card(const AnswerCard& card);

/// The legend of the scale on the cards.
std::string answer_legend(bool with_score, bool with_rating = true);

/// How far an answer is from the human score: |rating - score| + |rating from the caption - score|. A missing rating
/// counts as 4, the width of the scale.
double answer_error(const SampleRecord& sample);

/// Answers of the end of a run: those with the smallest error, and those with the largest. Each picture is in each list at
/// most once, with its best or its worst answer.
struct ChosenSamples {
  std::int64_t first_step = 0, last_step = 0;  ///< of the answers that were compared
  std::int64_t compared = 0;                   ///< number of these answers
  std::vector<SampleRecord> good, bad;
};
/// Compares the answers of the last tenth of the steps in samples.jsonl, at least of the last one. Equal errors are
/// ordered by step, picture and member. A picture among the good ones is not among the bad ones. Throws Error if the file
/// cannot be read.
ChosenSamples choose_samples(const std::filesystem::path& samples_file, std::size_t count);

}  // namespace biqa
