// SPDX-License-Identifier: Apache-2.0
#include "training/actor_role.h"

#include <utility>
#include <vector>

#include "actor/samples.h"
#include "data/wire.h"
#include "training/clock.h"
#include "training/messages.h"

namespace biqa {

RolloutOptions rollout_options(const Config& config, std::int64_t step, std::int64_t version,
                               std::uint64_t digest) {
  RolloutOptions options;
  options.group_size = config.rollout.group_size;
  options.sampling.temperature = static_cast<float>(config.rollout.temperature);
  options.sampling.top_k = static_cast<std::int32_t>(config.rollout.top_k);
  options.sampling.top_p = static_cast<float>(config.rollout.top_p);
  options.sampling.max_new_tokens = config.rollout.max_new_tokens;
  options.stage2_max_new_tokens = config.rollout.stage2_max_new_tokens;
  options.prompts = config.prompts.texts;
  options.stage2 = config.stage2.enabled;
  options.stage2_with_reasoning = config.stage2.input == Stage2Input::caption_reasoning;
  options.strip_ratings = config.stage2.leak_guard == LeakGuard::strip;
  options.seed = config.train.seed;
  options.step = step;
  options.policy_version = version;
  options.adapter_digest = digest;
  return options;
}

/// Provides the rows of the WorkShare as samples.
class ActorRole::Source final : public SampleSource {
 public:
  Source(ActorRole& actor, std::int64_t step) : actor_(actor) { actor_.share_.begin(step); }
  std::vector<RolloutSample> next(bool idle) override {
    const std::vector<std::size_t> rows = actor_.share_.next(idle);
    if (rows.empty()) return {};
    return load_samples(*actor_.policy_.pictures, actor_.data_.train, rows);
  }
  void finished(const Group& group, std::int64_t tokens) override {
    actor_.share_.finished(static_cast<std::size_t>(group.sample_index), tokens);
  }

 private:
  ActorRole& actor_;
};

ActorRole::ActorRole(const Config& config, const Policy& policy, Communicator& world, const RolePlan& roles,
                     const TrainingData& data)
    : policy_(policy),
      world_(world),
      roles_(roles),
      data_(data),
      engine_(*policy.model, Engine::Options{static_cast<std::int64_t>(config.rollout.kv_memory)}),
      rollout_(*policy.model, *policy.tokenizer, policy.chat, engine_),
      share_(world, roles.actors, [&data](std::int64_t step) { return data.rows_of_step(step); }) {}

void ActorRole::set_adapter(const Lora& adapter) {
  engine_.set_adapter(pack_adapter(*policy_.model, adapter));
}

ActorRole::RolloutSeconds ActorRole::roll_out(const RolloutOptions& options) {
  const auto begin = Clock::now();
  Source source(*this, options.step);
  rollout_.run(source, options, [&](Group&& group) { send(std::move(group)); });
  return {seconds_since(begin), rollout_.times().stage2_seconds};
}

ActorRole::RolloutSeconds ActorRole::roll_out(const RolloutOptions& options,
                                              std::span<const std::size_t> rows) {
  const auto begin = Clock::now();
  std::vector<std::size_t> own;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (roles_.actors[i % roles_.actors.size()] == world_.rank()) own.push_back(rows[i]);
  }
  if (own.empty()) return {};
  const std::vector<RolloutSample> samples = load_samples(*policy_.pictures, data_.train, own);
  rollout_.run(samples, options, [&](Group&& group) { send(std::move(group)); });
  return {seconds_since(begin), rollout_.times().stage2_seconds};
}

void ActorRole::send(Group&& group) {
  world_.send(roles_.reward_rank_of(static_cast<std::uint64_t>(group.sample_index)), kTagGroup,
              serialise(group));
}

}  // namespace biqa
