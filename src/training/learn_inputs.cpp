// SPDX-License-Identifier: Apache-2.0
#include "training/learn_inputs.h"

#include <algorithm>

#include "actor/rollout.h"
#include "core/random.h"

namespace biqa {

std::vector<bool> dropped_groups(std::span<const Group> groups, const Config& config) {
  if (!config.objective.drop_zero_variance || row_of(config.objective.loss.loss).imitates || groups.empty())
    return std::vector<bool>(groups.size(), false);
  return advantages_of(groups, config).zero_variance;
}

bool counts(bool finished, const Config& config) {
  return finished || !config.objective.mask_truncated;
}

bool learns_stage2(const Trajectory& trajectory, const Config& config) {
  return config.stage2.train && !trajectory.stage2_completion_ids.empty();
}

std::uint64_t dropout_key(const Group& group) {
  return mix64(hash_text(group.sample_id) ^ mix64(static_cast<std::uint64_t>(group.step)));
}

std::uint64_t stage2_dropout_key(const Group& group, std::int64_t member) {
  return mix64(dropout_key(group) ^ (static_cast<std::uint64_t>(member) + 1));
}

LearnInputs::LearnInputs(std::span<const Group> groups, const Config& config, const ModelConfig& model)
    : groups_(groups), config_(config), model_(model), dropped_(dropped_groups(groups, config)) {
  std::size_t longest = 0;
  for (const Group& group : groups) {
    for (const Trajectory& t : group.members)
      longest = std::max({longest, t.completion_ids.size(), t.stage2_completion_ids.size()});
  }
  if (config.objective.mask_truncated) zeros_.assign(longest, 0.0F);
}

std::span<const float> LearnInputs::mask_of(bool finished, std::size_t tokens) const {
  return counts(finished, config_) ? std::span<const float>() : std::span(zeros_).first(tokens);
}

void LearnInputs::add(std::size_t index, const EncodedPicture& picture) {
  const Group& group = groups_[index];
  LearnerGroup input{prompt_of_ids(model_, group.prompt_ids, std::span(&picture, 1)),
                     {},
                     dropout_key(group),
                     dropped_[index],
                     group.sample_id};
  for (const Trajectory& t : group.members) {
    input.sequences.push_back({t.completion_ids, t.behaviour_logp,
                               mask_of(t.finished, t.completion_ids.size()), t.advantage,
                               static_cast<std::uint64_t>(t.member), t.token_advantages});
  }
  inputs_.push_back(std::move(input));
  for (const Trajectory& t : group.members) {
    if (!learns_stage2(t, config_)) continue;
    inputs_.push_back({prompt_of_ids(model_, t.stage2_prompt_ids, {}),
                       {{t.stage2_completion_ids, t.stage2_behaviour_logp,
                         mask_of(t.stage2_finished, t.stage2_completion_ids.size()), t.stage2_advantage}},
                       stage2_dropout_key(group, t.member),
                       dropped_[index],
                       group.sample_id + " (from the caption)"});
  }
}

}  // namespace biqa
