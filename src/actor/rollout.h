// SPDX-License-Identifier: Apache-2.0
// Samples to groups: stage 1 looks at the picture and writes caption, reasoning and rating; stage 2 rates the
// caption alone and enters the running batch as soon as its parent has ended.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "actor/engine.h"
#include "actor/pictures.h"
#include "data/chat.h"
#include "data/prompts.h"
#include "data/tokenizer.h"
#include "data/trajectory.h"

namespace biqa {

/// Prompt over pictures in order, then the text; the result keeps the features alive.
std::shared_ptr<const PromptInput> build_prompt(const ModelConfig& config, const Tokenizer& tokenizer,
                                                const ChatIds& chat, const std::optional<std::string>& system,
                                                std::span<const EncodedPicture> pictures,
                                                std::string_view user);

/// The same from ids at hand (image tokens expanded).
std::shared_ptr<const PromptInput> prompt_of_ids(const ModelConfig& config, std::vector<std::int64_t> ids,
                                                 std::span<const EncodedPicture> pictures);

struct RolloutOptions {
  std::int64_t group_size = 4;
  SamplingParameters sampling;
  std::int64_t stage2_max_new_tokens = 64;
  PromptTexts prompts;
  bool stage2 = true;
  bool stage2_with_reasoning = false;  ///< the reasoning too fills {caption}
  bool strip_ratings = true;           ///< leak guard
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::int64_t policy_version = 0;
  std::uint64_t adapter_digest = 0;
};

/// One picture to roll out.
struct RolloutSample {
  std::string id;
  std::int64_t index = 0;  ///< row of the manifest
  double score = 0;
  std::string human_text;
  EncodedPicture picture;
};

struct RolloutTimes {
  double seconds = 0;                                 ///< all of it
  double stage2_seconds = 0;                          ///< its share by tokens through the decoder
  std::int64_t stage1_tokens = 0, stage2_tokens = 0;  ///< generated
  std::int64_t captions_too_long = 0;                 ///< with no second stage for that reason
};

/// Hands out the pictures of a rollout bit by bit.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  /// What to begin with now, often nothing. Called before every token; with `idle` nothing is under way, so it may
  /// wait, and to return nothing means that there is no more.
  virtual std::vector<RolloutSample> next(bool idle) = 0;
  /// A group of the source has ended, both stages, with so many sampled tokens in all.
  virtual void finished(const Group& group, std::int64_t tokens) = 0;
};

class Rollout {
 public:
  Rollout(const QwenVl& model, const Tokenizer& tokenizer, const ChatIds& chat, Engine& engine)
      : model_(model), tokenizer_(tokenizer), chat_(chat), engine_(engine) {}

  /// A caption whose second stage would exceed the model's positions or the cache gets none; a warning counts them.
  /// Calls `done` for each group as soon as its last member has ended (in an order that may vary with the batch; what a
  /// group holds does not). A member's draws depend on (seed, step, sample id, member, stage) alone.
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

/// What the sampled ids say, without the end token.
std::string completion_text(const Tokenizer& tokenizer, const ModelConfig& config,
                            std::span<const std::int64_t> ids);

}  // namespace biqa
