// SPDX-License-Identifier: Apache-2.0
#include "actor/rollout.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "data/response.h"

namespace biqa {
namespace {

/// Owns the features to which a prompt points.
struct OwnedPrompt {
  PromptInput input;
  std::vector<EncodedPicture> pictures;
};

}  // namespace

std::shared_ptr<const PromptInput> prompt_of_ids(const ModelConfig& config, std::vector<std::int64_t> ids,
                                                 std::span<const EncodedPicture> pictures) {
  auto owned = std::make_shared<OwnedPrompt>();
  owned->pictures.assign(pictures.begin(), pictures.end());
  std::vector<Grid> grids;
  for (const EncodedPicture& picture : pictures) grids.push_back(picture.grid);
  PromptInput& input = owned->input;
  input.ids = std::move(ids);
  input.positions = mrope_positions(config, input.ids, grids, input.next_position);
  std::int64_t token = 0;
  for (const EncodedPicture& picture : owned->pictures) {
    while (input.ids[static_cast<std::size_t>(token)] != config.image_token) ++token;
    input.features.push_back({token, picture.features->view()});
    token += picture.tokens();
  }
  return {owned, &owned->input};
}

std::shared_ptr<const PromptInput> build_prompt(const ModelConfig& config, const Tokenizer& tokenizer,
                                                const ChatIds& chat, const std::optional<std::string>& system,
                                                std::span<const EncodedPicture> pictures,
                                                std::string_view user) {
  std::vector<std::int64_t> tokens;
  for (const EncodedPicture& picture : pictures) tokens.push_back(picture.tokens());
  return prompt_of_ids(config, render_prompt(tokenizer, chat, system, tokens, user).ids, pictures);
}

std::string completion_text(const Tokenizer& tokenizer, const ModelConfig& config,
                            std::span<const std::int64_t> ids) {
  const auto& ends = config.end_tokens;
  if (!ids.empty() && std::find(ends.begin(), ends.end(), ids.back()) != ends.end())
    ids = ids.first(ids.size() - 1);
  return tokenizer.decode(ids, true);
}

void Rollout::run(std::span<const RolloutSample> samples, const RolloutOptions& options,
                  const std::function<void(Group&&)>& done) {
  class Whole final : public SampleSource {
   public:
    explicit Whole(std::span<const RolloutSample> samples) : samples_(samples) {}
    std::vector<RolloutSample> next(bool /*idle*/) override {
      const auto all = std::exchange(samples_, {});
      return {all.begin(), all.end()};
    }
    void finished(const Group& /*group*/, std::int64_t /*tokens*/) override {}

   private:
    std::span<const RolloutSample> samples_;
  };
  Whole source(samples);
  run(source, options, done);
}

/// The running groups of one call of run().
class Rollout::UnderWay {
 public:
  UnderWay(Rollout& rollout, SampleSource& source, const RolloutOptions& options,
           const std::function<void(Group&&)>& done)
      : rollout_(rollout),
        source_(source),
        options_(options),
        done_(done),
        size_(static_cast<std::size_t>(options.group_size)) {}

  /// Submits the first stage of a sample.
  void begin(const RolloutSample& sample);
  /// Stores a completion of either stage.
  void take(Generated&& result) {
    if (result.tag % 2 == 0)
      take_first(std::move(result));
    else
      take_second(std::move(result));
  }
  std::int64_t stage1_prompt_tokens = 0, stage2_prompt_tokens = 0;

 private:
  struct Pending {
    Group group;
    std::size_t open = 0;  ///< members that have not ended, both stages counted
    std::int64_t tokens = 0;
  };
  void take_first(Generated&& result);
  void take_second(Generated&& result);
  /// The text that the model reads in the second stage; nothing if there is no second stage.
  std::optional<std::string> text_of_second(const Stage1Response& response) const;
  /// Returns false if its prompt is too long.
  bool submit_second(std::size_t sample, std::size_t member, const std::string& text);
  void close_member(std::size_t sample);

  // Tags: 2·(sample) for stage 1, 2·(sample·size + member) + 1 for stage 2.
  Rollout& rollout_;
  SampleSource& source_;
  const RolloutOptions& options_;
  const std::function<void(Group&&)>& done_;
  std::size_t size_;
  std::vector<Pending> pending_;
};

void Rollout::UnderWay::begin(const RolloutSample& sample) {
  GenerateRequest request;
  request.prompt =
      build_prompt(rollout_.model_.config(), rollout_.tokenizer_, rollout_.chat_, options_.prompts.system,
                   std::span(&sample.picture, 1), options_.prompts.user);
  request.sampling = options_.sampling;
  request.tag = 2 * pending_.size();
  for (std::size_t m = 0; m < size_; ++m) {
    request.streams.emplace_back(std::initializer_list<std::uint64_t>{
        options_.seed, static_cast<std::uint64_t>(options_.step), hash_text(sample.id), m, 1});
  }
  Pending& pending = pending_.emplace_back();
  Group& group = pending.group;
  group.sample_id = sample.id;
  group.sample_index = sample.index;
  group.step = options_.step;
  group.prompt_ids = request.prompt->ids;
  group.image_grid_thw = {sample.picture.grid};
  group.annotation = sample.annotation;
  group.members.resize(size_);
  pending.open = size_;
  stage1_prompt_tokens += request.prompt->tokens();
  rollout_.engine_.submit(std::move(request));
}

void Rollout::UnderWay::take_first(Generated&& result) {
  const std::size_t s = result.tag / 2;
  Trajectory& trajectory = pending_[s].group.members[result.member];
  trajectory.member = static_cast<std::int64_t>(result.member);
  trajectory.policy_version = options_.policy_version;
  trajectory.adapter_digest = options_.adapter_digest;
  trajectory.finished = result.ended;
  trajectory.text = completion_text(rollout_.tokenizer_, rollout_.model_.config(), result.ids);
  trajectory.behaviour_logp = std::move(result.logp);
  trajectory.completion_ids = std::move(result.ids);
  pending_[s].tokens += static_cast<std::int64_t>(trajectory.completion_ids.size());
  rollout_.times_.stage1_tokens += static_cast<std::int64_t>(trajectory.completion_ids.size());
  const Stage1Response response = parse_stage1(options_.prompts.profile, trajectory.text);
  trajectory.format_ok = response.format_ok;
  trajectory.caption = response.caption;
  trajectory.reasoning = response.reasoning;
  trajectory.rating = response.rating;
  const std::optional<std::string> text = text_of_second(response);
  if (!text || !submit_second(s, result.member, *text)) close_member(s);
}

std::optional<std::string> Rollout::UnderWay::text_of_second(const Stage1Response& response) const {
  if (!options_.stage2 || !response.caption) return std::nullopt;
  std::string text = *response.caption;
  if (options_.stage2_with_reasoning && response.reasoning) text += " " + *response.reasoning;
  return options_.strip_ratings ? strip_ratings(text) : text;
}

bool Rollout::UnderWay::submit_second(std::size_t sample, std::size_t member, const std::string& text) {
  GenerateRequest request;
  request.prompt = build_prompt(rollout_.model_.config(), rollout_.tokenizer_, rollout_.chat_,
                                options_.prompts.stage2_system, {}, fill(options_.prompts.stage2_user, text));
  request.sampling = options_.sampling;
  request.sampling.max_new_tokens = options_.stage2_max_new_tokens;
  request.tag = 2 * (sample * size_ + member) + 1;
  request.urgent = true;
  request.shares_beginning = true;
  Group& group = pending_[sample].group;
  request.streams.emplace_back(std::initializer_list<std::uint64_t>{
      options_.seed, static_cast<std::uint64_t>(options_.step), hash_text(group.sample_id), member, 2});
  if (!rollout_.engine_.obstacle(request).empty()) {
    ++rollout_.times_.captions_too_long;
    return false;
  }
  group.members[member].stage2_prompt_ids = request.prompt->ids;
  stage2_prompt_tokens += request.prompt->tokens();
  rollout_.engine_.submit(std::move(request));
  return true;
}

void Rollout::UnderWay::take_second(Generated&& result) {
  const std::size_t s = result.tag / 2 / size_;
  Trajectory& trajectory = pending_[s].group.members[result.tag / 2 % size_];
  trajectory.stage2_finished = result.ended;
  trajectory.stage2_text = completion_text(rollout_.tokenizer_, rollout_.model_.config(), result.ids);
  trajectory.stage2_behaviour_logp = std::move(result.logp);
  trajectory.stage2_completion_ids = std::move(result.ids);
  trajectory.stage2_rating = parse_stage2(options_.prompts.profile, trajectory.stage2_text);
  pending_[s].tokens += static_cast<std::int64_t>(trajectory.stage2_completion_ids.size());
  rollout_.times_.stage2_tokens += static_cast<std::int64_t>(trajectory.stage2_completion_ids.size());
  close_member(s);
}

void Rollout::UnderWay::close_member(std::size_t sample) {
  Pending& pending = pending_[sample];
  if (--pending.open != 0) return;
  source_.finished(pending.group, pending.tokens);
  done_(std::move(pending.group));
}

void Rollout::run(SampleSource& source, const RolloutOptions& options,
                  const std::function<void(Group&&)>& done) {
  const auto start = std::chrono::steady_clock::now();
  times_ = {};
  const std::int64_t shared_before = engine_.statistics().shared_prompt_tokens;
  UnderWay groups(*this, source, options, done);
  engine_.run([&](Generated&& result) { groups.take(std::move(result)); },
              [&](bool idle) {
                for (const RolloutSample& sample : source.next(idle)) groups.begin(sample);
              });
  if (times_.captions_too_long > 0) {
    LOG(WARNING) << (options.step < 0 ? std::string("evaluation") : fmt::format("step {}", options.step))
                 << ": " << times_.captions_too_long
                 << " captions are too long for a second-stage prompt: they get no second-stage rating";
  }
  times_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  // Only prompts of the second stage share their beginning.
  const std::int64_t shared = engine_.statistics().shared_prompt_tokens - shared_before;
  const auto stage2 = static_cast<double>(groups.stage2_prompt_tokens - shared + times_.stage2_tokens);
  const double all = stage2 + static_cast<double>(groups.stage1_prompt_tokens + times_.stage1_tokens);
  times_.stage2_seconds = all > 0 ? times_.seconds * stage2 / all : 0;
}

}  // namespace biqa
