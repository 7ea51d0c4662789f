// SPDX-License-Identifier: Apache-2.0
#include "actor/rollout.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "data/response.h"

namespace biqa {
namespace {

/// Keeps the features a prompt points into.
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

void Rollout::run(SampleSource& source, const RolloutOptions& options,
                  const std::function<void(Group&&)>& done) {
  const auto start = std::chrono::steady_clock::now();
  const ModelConfig& config = model_.config();
  const auto size = static_cast<std::size_t>(options.group_size);
  struct Pending {
    Group group;
    std::size_t open = 0;  ///< members that have not ended, both stages counted
    std::int64_t tokens = 0;
  };
  std::vector<Pending> pending;
  std::int64_t stage2_prompt_tokens = 0;
  std::int64_t stage1_prompt_tokens = 0;
  times_ = {};

  // Tags: 2·(sample) for stage 1, 2·(sample·size + member) + 1 for stage 2.
  const auto begin = [&](const RolloutSample& sample) {
    const std::size_t s = pending.size();
    GenerateRequest request;
    request.prompt = build_prompt(config, tokenizer_, chat_, options.prompts.system,
                                  std::span(&sample.picture, 1), options.prompts.user);
    request.sampling = options.sampling;
    request.tag = 2 * s;
    for (std::size_t m = 0; m < size; ++m) {
      request.streams.emplace_back(std::initializer_list<std::uint64_t>{
          options.seed, static_cast<std::uint64_t>(options.step), hash_text(sample.id), m, 1});
    }
    Group& group = pending.emplace_back().group;
    group.sample_id = sample.id;
    group.sample_index = sample.index;
    group.step = options.step;
    group.prompt_ids = request.prompt->ids;
    group.image_grid_thw = {sample.picture.grid};
    group.score = sample.score;
    group.human_text = sample.human_text;
    group.members.resize(size);
    pending[s].open = size;
    stage1_prompt_tokens += static_cast<std::int64_t>(request.prompt->ids.size());
    engine_.submit(std::move(request));
  };

  const auto close = [&](std::size_t s) {
    if (--pending[s].open != 0) return;
    source.finished(pending[s].group, pending[s].tokens);
    done(std::move(pending[s].group));
  };
  const auto take = [&](Generated&& result) {
    if (result.tag % 2 == 0) {
      const std::size_t s = result.tag / 2;
      Trajectory& trajectory = pending[s].group.members[result.member];
      trajectory.member = static_cast<std::int64_t>(result.member);
      trajectory.policy_version = options.policy_version;
      trajectory.adapter_digest = options.adapter_digest;
      trajectory.finished = result.ended;
      trajectory.text = completion_text(tokenizer_, config, result.ids);
      trajectory.behaviour_logp = std::move(result.logp);
      trajectory.completion_ids = std::move(result.ids);
      pending[s].tokens += static_cast<std::int64_t>(trajectory.completion_ids.size());
      times_.stage1_tokens += static_cast<std::int64_t>(trajectory.completion_ids.size());
      const Stage1Response response = parse_stage1(options.prompts.profile, trajectory.text);
      trajectory.format_ok = response.format_ok;
      trajectory.caption = response.caption;
      trajectory.reasoning = response.reasoning;
      trajectory.rating = response.rating;
      if (!options.stage2 || !response.caption) {
        close(s);
        return;
      }
      std::string told = *response.caption;
      if (options.stage2_with_reasoning && response.reasoning) told += " " + *response.reasoning;
      if (options.strip_ratings) told = strip_ratings(told);
      GenerateRequest request;
      request.prompt = build_prompt(config, tokenizer_, chat_, options.prompts.stage2_system, {},
                                    fill(options.prompts.stage2_user, told));
      request.sampling = options.sampling;
      request.sampling.max_new_tokens = options.stage2_max_new_tokens;
      request.tag = 2 * (s * size + result.member) + 1;
      request.urgent = true;
      request.streams.emplace_back(
          std::initializer_list<std::uint64_t>{options.seed, static_cast<std::uint64_t>(options.step),
                                               hash_text(pending[s].group.sample_id), result.member, 2});
      if (!engine_.obstacle(request).empty()) {
        ++times_.captions_too_long;
        close(s);
        return;
      }
      trajectory.stage2_prompt_ids = request.prompt->ids;
      stage2_prompt_tokens += static_cast<std::int64_t>(request.prompt->ids.size());
      engine_.submit(std::move(request));
      return;
    }
    const std::size_t s = result.tag / 2 / size;
    Trajectory& trajectory = pending[s].group.members[result.tag / 2 % size];
    trajectory.stage2_finished = result.ended;
    trajectory.stage2_text = completion_text(tokenizer_, config, result.ids);
    trajectory.stage2_behaviour_logp = std::move(result.logp);
    trajectory.stage2_completion_ids = std::move(result.ids);
    trajectory.stage2_rating = parse_stage2(options.prompts.profile, trajectory.stage2_text);
    pending[s].tokens += static_cast<std::int64_t>(trajectory.stage2_completion_ids.size());
    times_.stage2_tokens += static_cast<std::int64_t>(trajectory.stage2_completion_ids.size());
    close(s);
  };
  engine_.run(take, [&](bool idle) {
    for (const RolloutSample& sample : source.next(idle)) begin(sample);
  });
  if (times_.captions_too_long > 0) {
    LOG(WARNING) << (options.step < 0 ? std::string("evaluation") : fmt::format("step {}", options.step))
                 << ": " << times_.captions_too_long
                 << " captions are too long to be rated alone: they get no rating from their caption";
  }
  times_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const auto stage2 = static_cast<double>(stage2_prompt_tokens + times_.stage2_tokens);
  const double all = stage2 + static_cast<double>(stage1_prompt_tokens + times_.stage1_tokens);
  times_.stage2_seconds = all > 0 ? times_.seconds * stage2 / all : 0;
}

}  // namespace biqa
