// SPDX-License-Identifier: Apache-2.0
#include "evaluation/text_figures.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "core/statistics.h"
#include "data/response.h"
#include "data/rouge.h"

namespace biqa {
namespace {

/// An aspect of quality and the beginnings of the words that name it. A beginning that ends in a space is a whole word.
struct Aspect {
  const char* name;
  std::initializer_list<std::string_view> beginnings;
};
const std::array<Aspect, 8> kAspects{{
    {"sharpness", {"blur", "sharp", "focus", "clear", "unclear", "soft ", "crisp", "detail", "fuzzy"}},
    {"noise", {"nois", "grain", "speckl"}},
    {"exposure", {"expos", "overexpos", "underexpos", "bright", "dark", "dim ", "lit ", "light", "shadow"}},
    {"colour", {"colour", "color", "satur", "desatur", "oversatur", "hue", "tint", "vivid", "washed"}},
    {"contrast", {"contrast", "haz", "fog", "flat "}},
    {"compression", {"compress", "artifact", "artefact", "block", "jpeg", "pixelat", "banding", "ringing"}},
    {"motion", {"motion", "shak", "ghost"}},
    {"composition", {"compos", "fram", "crop", "centre", "center", "background"}},
}};

bool begins_with(const std::string& word, std::string_view beginning) {
  if (beginning.ends_with(' ')) return word == beginning.substr(0, beginning.size() - 1);
  return word.starts_with(beginning);
}

/// Collects values and their means.
struct Means {
  std::vector<double> values, chances;
  void add(double value, double chance) {
    values.push_back(value);
    chances.push_back(chance);
  }
  ChanceFigure figure() const {
    return values.empty() || chances.empty() ? ChanceFigure{} : ChanceFigure{mean(values), mean(chances)};
  }
};

/// Precision, recall and F1.
struct RougeMeans {
  std::array<Means, 3> parts;
  void add(const Rouge& own, const Rouge& other) {
    parts[0].add(own.precision, other.precision);
    parts[1].add(own.recall, other.recall);
    parts[2].add(own.f1, other.f1);
  }
};

void add_coverage(std::vector<double>& shares, std::string_view answer, std::string_view human_text) {
  const std::uint32_t asked = named_aspects(human_text);
  if (asked == 0) return;
  shares.push_back(static_cast<double>(std::popcount(asked & named_aspects(answer))) /
                   static_cast<double>(std::popcount(asked)));
}

/// The answer of each image that stands for it.
std::vector<const TextPair*> first_of_images(std::span<const TextPair> pairs, std::size_t images) {
  std::vector<const TextPair*> first(images, nullptr);
  for (const TextPair& pair : pairs) {
    CHECK_LT(pair.image, images);
    if (first[pair.image] == nullptr) first[pair.image] = &pair;
  }
  CHECK(std::find(first.begin(), first.end(), nullptr) == first.end()) << "an image without an answer";
  return first;
}

ChanceFigure similarity_of(std::span<const TextPair> pairs, std::span<const TextPair* const> first,
                           std::span<const std::size_t> other, SentenceEncoder& encoder) {
  std::vector<std::string_view> texts;
  for (const TextPair* pair : first) texts.push_back(pair->human_text);
  const std::vector<float> references = encoder.encode(texts);
  texts.clear();
  for (const TextPair& pair : pairs) texts.push_back(pair.answer);
  const std::vector<float> answers = encoder.encode(texts);
  const auto width = static_cast<std::size_t>(encoder.width());
  const auto row = [width](const std::vector<float>& rows, std::size_t i) {
    return std::span(rows).subspan(i * width, width);
  };
  Means means;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    if (word_count(pairs[i].answer) == 0) {
      means.add(0, 0);
      continue;
    }
    means.add(cosine(row(answers, i), row(references, pairs[i].image)),
              cosine(row(answers, i), row(references, other[pairs[i].image])));
  }
  return means.figure();
}

ChanceFigure polarity_of(std::span<const TextPair> pairs, std::span<const TextPair* const> first,
                         std::span<const std::size_t> other, const Lexicon& lexicon) {
  std::vector<AspectSigns> references;
  for (const TextPair* pair : first) references.push_back(lexicon.signs_of(pair->human_text));
  Means means;
  for (const TextPair& pair : pairs) {
    const AspectSigns answer = lexicon.signs_of(pair.answer);
    const double own = polarity_agreement(answer, references[pair.image]);
    const double chance = polarity_agreement(answer, references[other[pair.image]]);
    if (std::isfinite(own)) means.values.push_back(own);
    if (std::isfinite(chance)) means.chances.push_back(chance);
  }
  return means.figure();
}

}  // namespace

std::uint32_t named_aspects(std::string_view text) {
  std::uint32_t named = 0;
  for (const std::string& word : rouge_words(text)) {
    for (std::size_t i = 0; i < kAspects.size(); ++i) {
      const auto& beginnings = kAspects[i].beginnings;
      if (std::any_of(beginnings.begin(), beginnings.end(),
                      [&](std::string_view beginning) { return begins_with(word, beginning); }))
        named |= 1U << i;
    }
  }
  return named;
}

std::vector<std::size_t> other_images(std::span<const std::string_view> texts, const RandomStream& stream) {
  const std::size_t images = texts.size();
  struct Text {
    std::size_t first = 0, images = 0;  // place of its first image in the random order
  };
  std::map<std::string_view, Text> text_of;
  std::vector<std::size_t> order = random_order(images, stream);
  std::size_t most = 0;
  for (std::size_t place = 0; place < images; ++place) {
    Text& text = text_of.try_emplace(texts[order[place]], Text{place, 0}).first->second;
    most = std::max(most, ++text.images);
  }
  if (text_of.size() < 2) return {};
  // The most frequent text stands first. A stable sort keeps the order of texts that all differ.
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const Text &left = text_of.at(texts[a]), &right = text_of.at(texts[b]);
    return std::pair(right.images, left.first) < std::pair(left.images, right.first);
  });
  std::vector<std::size_t> other(images);
  for (std::size_t i = 0; i < images; ++i) {
    const bool turns = 2 * most > images && i < most;
    const std::size_t place = turns ? most + i % (images - most) : (i + most) % images;
    other[order[i]] = order[place];
  }
  return other;
}

TextFigures text_figures(std::span<const TextPair> pairs, std::size_t images, const RandomStream& stream,
                         const MeaningTools& tools) {
  TextFigures figures;
  figures.n = static_cast<std::int64_t>(pairs.size());
  const std::vector<const TextPair*> first = first_of_images(pairs, images);
  std::vector<std::string_view> texts(images);
  std::vector<double> ratios;
  for (const TextPair& pair : pairs) {
    texts[pair.image] = pair.human_text;
    if (const std::size_t words = word_count(pair.human_text); words > 0)
      ratios.push_back(static_cast<double>(word_count(pair.answer)) / static_cast<double>(words));
  }
  figures.length_ratio = mean(ratios);
  figures.distinct_texts = static_cast<std::int64_t>(std::set(texts.begin(), texts.end()).size());
  const std::vector<std::size_t> other = other_images(texts, stream);
  if (other.empty()) return figures;
  RougeMeans unigrams, sequences;
  Means aspects, repetition;
  for (const TextPair& pair : pairs) {
    const TextPair* next = first[other[pair.image]];
    unigrams.add(rouge1(pair.human_text, pair.answer), rouge1(next->human_text, pair.answer));
    sequences.add(rougel(pair.human_text, pair.answer), rougel(next->human_text, pair.answer));
    add_coverage(aspects.values, pair.answer, pair.human_text);
    add_coverage(aspects.chances, pair.answer, next->human_text);
    repetition.add(rouge1(next->answer, pair.answer).f1, rouge1(next->human_text, pair.human_text).f1);
  }
  for (const auto& [means, p, r, f] :
       {std::tuple(&unigrams, &figures.rouge1_p, &figures.rouge1_r, &figures.rouge1_f),
        std::tuple(&sequences, &figures.rougel_p, &figures.rougel_r, &figures.rougel_f)}) {
    *p = means->parts[0].figure();
    *r = means->parts[1].figure();
    *f = means->parts[2].figure();
  }
  if (tools.encoder != nullptr) figures.similarity = similarity_of(pairs, first, other, *tools.encoder);
  figures.polarity = polarity_of(pairs, first, other, *tools.lexicon);
  figures.aspects = aspects.figure();
  figures.repetition = repetition.figure();
  return figures;
}

}  // namespace biqa
