// SPDX-License-Identifier: Apache-2.0
// How much answers have in common with what people wrote about the same images, and with what they wrote about others.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "core/random.h"
#include "semantic/polarity.h"
#include "semantic/sentence_encoder.h"

namespace biqa {

/// A figure of texts beside its chance level: the same figure with the human text of another image.
struct ChanceFigure {
  double value = std::numeric_limits<double>::quiet_NaN();
  double chance = std::numeric_limits<double>::quiet_NaN();
  double excess() const { return value - chance; }
};

/// Means over answers to images with human text. NaN: not defined. Without a second human text there is no chance level,
/// and then only length_ratio has a value.
struct TextFigures {
  std::int64_t n = 0;  ///< answers to images with human text
  std::int64_t without_text =
      0;  ///< rows with a human text that were left out, because the answer is unknown
  std::int64_t distinct_texts = 0;  ///< different human texts
  // data/rouge.h, without stemming; the hypothesis is the whole answer.
  ChanceFigure rouge1_p, rouge1_r, rouge1_f, rougel_p, rougel_r, rougel_f;
  /// Cosine of the two texts' vectors; of a blank answer 0. Without a sentence encoder not defined.
  ChanceFigure similarity;
  /// polarity_agreement, over pairs of texts of which at least one mentions an aspect.
  ChanceFigure polarity;
  /// Share of the human text's aspects of quality that the answer names too. Mean over human texts that name an aspect.
  ChanceFigure aspects;
  /// Words of the answer divided by words of the human text.
  double length_ratio = std::numeric_limits<double>::quiet_NaN();
  /// ROUGE-1 F1 between the answers to two images: how much answers repeat each other. Instead of a
  /// chance level it has the same figure of the human texts.
  ChanceFigure repetition;
};

/// An answer and the human text of its image.
struct TextPair {
  std::size_t image = 0;  ///< number of the image; several answers may belong to one
  std::string_view answer, human_text;
};

/// Encoder and lexicon for the figures of meaning; borrowed.
struct MeaningTools {
  SentenceEncoder* encoder = nullptr;  ///< nullptr: no similarity
  const Lexicon* lexicon = &Lexicon::built_in();
};

/// `images`: number of images; each has at least one pair. other_images() gives the other image.
TextFigures text_figures(std::span<const TextPair> pairs, std::size_t images, const RandomStream& stream,
                         const MeaningTools& tools = {});

/// other[i]: the image whose text stands in for texts[i]; it is a different text. The images are in a random order that
/// `stream` gives. If all texts differ, the other image is the next one. Otherwise the images are grouped by
/// text, and image i gets the text that stands k places further (cyclic), where k is the size of the largest group. So
/// every text is used as often as it occurs. If more than half of the images share one text, these images get the texts
/// of the other images in turn. Empty with fewer than two different texts.
std::vector<std::size_t> other_images(std::span<const std::string_view> texts, const RandomStream& stream);

/// The aspects of quality that a text names (blur, noise, exposure, …), one bit each.
std::uint32_t named_aspects(std::string_view text);

}  // namespace biqa
