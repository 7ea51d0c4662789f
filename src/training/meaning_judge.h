// SPDX-License-Identifier: Apache-2.0
// Judges the meaning of completions for the reasoning reward, by a sentence encoder and a lexicon.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/manifest.h"
#include "reward/text_judge.h"
#include "semantic/polarity.h"
#include "semantic/sentence_encoder.h"

namespace biqa {

class MeaningJudge final : public TextJudge {
 public:
  /// Largest number of human texts from which similarity() computes the chance level c.
  static constexpr std::size_t kMostOthers = 256;

  /// Without an encoder similarity() must not be called (CHECK). With one, kMostOthers of the distinct
  /// `human_texts` are chosen with `seed`, or all if there are no more. Fewer than two are then an Error (usage).
  MeaningJudge(std::optional<SentenceEncoder> encoder, Lexicon lexicon,
               std::span<const std::string> human_texts, std::uint64_t seed);

  /// clamp((s − c) / (1 − c), 0, 1); 0 for a blank text, and if c is nearly 1. s: cosine of the vectors of both texts.
  /// c: mean cosine of `text` with the other human texts. So a text that suits every image as well as its own earns nothing.
  double similarity(std::string_view human_text, std::string_view text) override;
  /// polarity_agreement.
  std::optional<double> polarity(std::string_view human_text, std::string_view text) override;

  /// Mean cosine over all pairs of the chosen human texts.
  double mean_chance() const { return mean_chance_; }
  /// Number of the chosen human texts.
  std::size_t others() const { return others_.size(); }

 private:
  const std::vector<float>& vector_of_human_text(const std::string& text);

  std::optional<SentenceEncoder> encoder_;
  Lexicon lexicon_;
  std::map<std::string, std::size_t> others_;  ///< rows of vectors_
  std::vector<float> vectors_;                 ///< [others, width]
  std::map<std::string, std::vector<float>> vectors_of_human_texts_;
  double mean_chance_ = 0;
};

/// Whether the configured rewards compare meanings, for which each reward rank loads rewards.similarity_model.
bool needs_sentence_encoder(const Config& config);

/// What the configured rewards need; nullptr: nothing. Reads rewards.similarity_model and rewards.lexicon. `tell`: this
/// rank logs the chance level.
std::unique_ptr<TextJudge> make_text_judge(const Config& config, std::span<const Sample> train, int threads,
                                           bool tell);

}  // namespace biqa
