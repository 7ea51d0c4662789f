// SPDX-License-Identifier: Apache-2.0
#include "training/meaning_judge.h"

#include <glog/logging.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "data/response.h"
#include "learner/losses.h"

namespace biqa {
namespace {

/// Below this distance from 1 a chance level leaves nothing to earn.
constexpr double kLeastRoom = 1e-6;

std::vector<std::string> chosen_texts(std::span<const std::string> human_texts, std::uint64_t seed) {
  std::vector<std::string> texts(human_texts.begin(), human_texts.end());
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  if (texts.size() <= MeaningJudge::kMostOthers) return texts;
  const auto order = random_order(texts.size(), RandomStream({seed, hash_text("rewards: chance level")}));
  std::vector<std::string> chosen;
  for (std::size_t i = 0; i < MeaningJudge::kMostOthers; ++i) chosen.push_back(std::move(texts[order[i]]));
  return chosen;
}

std::span<const float> row(const std::vector<float>& vectors, std::size_t index, std::size_t width) {
  return std::span(vectors).subspan(index * width, width);
}

}  // namespace

MeaningJudge::MeaningJudge(std::optional<SentenceEncoder> encoder, Lexicon lexicon,
                           std::span<const std::string> human_texts, std::uint64_t seed)
    : encoder_(std::move(encoder)), lexicon_(std::move(lexicon)) {
  if (!encoder_) return;
  const std::vector<std::string> texts = chosen_texts(human_texts, seed);
  if (texts.size() < 2)
    fail_usage(
        "cannot use rewards.reasoning_kind: the chance level of similarity needs at least two different "
        "human "
        "texts in data.train, which has {}; use polarity or rouge",
        texts.size());
  vectors_ = encoder_->encode(std::vector<std::string_view>(texts.begin(), texts.end()));
  for (std::size_t i = 0; i < texts.size(); ++i) others_.emplace(texts[i], i);
  const auto width = static_cast<std::size_t>(encoder_->width());
  double sum = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) sum += cosine(row(vectors_, i, width), row(vectors_, j, width));
  }
  mean_chance_ = sum / (0.5 * static_cast<double>(texts.size() * (texts.size() - 1)));
}

double MeaningJudge::similarity(std::string_view human_text, std::string_view text) {
  CHECK(encoder_.has_value());
  if (word_count(text) == 0) return 0;
  const auto width = static_cast<std::size_t>(encoder_->width());
  const std::string own(human_text);
  const std::vector<float> vector = encoder_->encode({&text, 1});
  const double value = cosine(vector, vector_of_human_text(own));
  double chance = 0;
  std::size_t count = 0;
  for (const auto& [other, index] : others_) {
    if (other == own) continue;
    chance += cosine(vector, row(vectors_, index, width));
    ++count;
  }
  chance /= static_cast<double>(count);
  return 1 - chance < kLeastRoom ? 0 : std::clamp((value - chance) / (1 - chance), 0.0, 1.0);
}

std::optional<double> MeaningJudge::polarity(std::string_view human_text, std::string_view text) {
  const AspectSigns own = lexicon_.signs_of(human_text);
  if (!mentions_any(own)) return std::nullopt;
  return polarity_agreement(lexicon_.signs_of(text), own);
}

const std::vector<float>& MeaningJudge::vector_of_human_text(const std::string& text) {
  const auto [place, is_new] = vectors_of_human_texts_.try_emplace(text);
  const std::string_view view = text;
  if (is_new) place->second = encoder_->encode({&view, 1});
  return place->second;
}

bool needs_sentence_encoder(const Config& config) {
  const ReasoningKind kind = config.rewards.reasoning_kind;
  return (kind == ReasoningKind::semantic || kind == ReasoningKind::mix) &&
         !row_of(config.objective.loss.loss).imitates;
}

std::unique_ptr<TextJudge> make_text_judge(const Config& config, std::span<const Sample> train, int threads,
                                           bool tell) {
  const RewardConfig& rewards = config.rewards;
  if (rewards.reasoning_kind == ReasoningKind::rouge || row_of(config.objective.loss.loss).imitates)
    return nullptr;
  Lexicon lexicon = rewards.lexicon.empty() ? Lexicon::built_in() : Lexicon::open(rewards.lexicon);
  std::optional<SentenceEncoder> encoder;
  std::vector<std::string> texts;
  if (needs_sentence_encoder(config)) {
    encoder.emplace(SentenceEncoder::open(rewards.similarity_model, threads));
    for (const Sample& sample : train) {
      std::string text = sample.human_text();
      if (!text.empty()) texts.push_back(std::move(text));
    }
  }
  const bool similar = encoder.has_value();
  auto judge =
      std::make_unique<MeaningJudge>(std::move(encoder), std::move(lexicon), texts, config.train.seed);
  if (tell && similar)
    LOG(INFO) << "reasoning reward: human texts of different images have a mean similarity of "
              << judge->mean_chance() << " (" << judge->others()
              << " texts); the reward counts only the similarity above the chance level of each completion";
  return judge;
}

}  // namespace biqa
