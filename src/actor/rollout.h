// SPDX-License-Identifier: Apache-2.0
// Computes groups from samples. In the first stage the model sees the image and writes caption, reasoning and rating.
// In the second stage it rates the caption alone. A second stage joins the running batch as soon as its first stage has
// ended.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "actor/engine.h"
#include "actor/options.h"
#include "actor/pictures.h"
#include "data/chat.h"
#include "data/prompts.h"
#include "data/tokenizer.h"
#include "data/trajectory.h"

namespace biqa {

/// A prompt with the images in order, then the text. The result keeps the features alive.
std::shared_ptr<const PromptInput> build_prompt(const ModelConfig& config, const Tokenizer& tokenizer,
                                                const ChatIds& chat, const std::optional<std::string>& system,
                                                std::span<const EncodedPicture> pictures,
                                                std::string_view user);

/// A prompt from given ids (image tokens already expanded).
std::shared_ptr<const PromptInput> prompt_of_ids(const ModelConfig& config, std::vector<std::int64_t> ids,
                                                 std::span<const EncodedPicture> pictures);

/// One image of a rollout.
struct RolloutSample {
  std::string id;
  std::int64_t index = 0;  ///< row of the manifest
  Annotation annotation;
  EncodedPicture picture;
};

struct RolloutTimes {
  double seconds = 0;  ///< of the whole rollout
  /// share of the second stage in `seconds`, in proportion to its decoder tokens
  double stage2_seconds = 0;
  std::int64_t stage1_tokens = 0, stage2_tokens = 0;  ///< generated
  std::int64_t captions_too_long = 0;                 ///< these have no second stage
};

/// Provides the images of a rollout little by little.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  /// Returns the samples to start now, often none. Called before every token. With `idle` no group is running: the call
  /// may block, and an empty result means that there are no more samples.
  virtual std::vector<RolloutSample> next(bool idle) = 0;
  /// Called when both stages of a group have ended. `tokens`: number of its sampled tokens.
  virtual void finished(const Group& group, std::int64_t tokens) = 0;
};

class Rollout {
 public:
  Rollout(const QwenVl& model, const Tokenizer& tokenizer, const ChatIds& chat, Engine& engine)
      : model_(model), tokenizer_(tokenizer), chat_(chat), engine_(engine) {}

  /// Calls `done` for each group as soon as its last member has ended. The order of the groups may depend on the batch;
  /// their content does not. Random numbers of a member depend only on (seed, step, sample id, member, stage). A
  /// caption gets no second stage if it would exceed the model's positions or the cache; a warning counts these
  /// captions.
  void run(std::span<const RolloutSample> samples, const RolloutOptions& options,
           const std::function<void(Group&&)>& done);
  void run(SampleSource& source, const RolloutOptions& options, const std::function<void(Group&&)>& done);
  const RolloutTimes& times() const { return times_; }

 private:
  class UnderWay;
  const QwenVl& model_;
  const Tokenizer& tokenizer_;
  const ChatIds& chat_;
  Engine& engine_;
  RolloutTimes times_;
};

/// The text of sampled ids, without the end token.
std::string completion_text(const Tokenizer& tokenizer, const ModelConfig& config,
                            std::span<const std::int64_t> ids);

}  // namespace biqa
