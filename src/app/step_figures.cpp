// SPDX-License-Identifier: Apache-2.0
#include "app/step_figures.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/statistics.h"
#include "data/response.h"

namespace biqa {

StepMetrics figures_of(std::span<const Group> groups, std::int64_t version, const Config& config) {
  StepMetrics metrics;
  std::vector<double> reward, prediction, consistency, reasoning, format;
  double parsed = 0, stage2_parsed = 0, leaks = 0, captions = 0, truncated = 0, caption_words = 0,
         reasoning_words = 0, reasonings = 0;
  for (const Group& group : groups) {
    for (const Trajectory& t : group.members) {
      ++metrics.trajectories;
      metrics.generated_tokens += static_cast<std::int64_t>(t.completion_ids.size());
      metrics.stage2_tokens += static_cast<std::int64_t>(t.stage2_completion_ids.size());
      metrics.policy_lag_max = std::max(metrics.policy_lag_max, version - t.policy_version);
      reward.push_back(t.reward);
      prediction.push_back(t.rewards.prediction);
      consistency.push_back(t.rewards.consistency);
      reasoning.push_back(t.rewards.reasoning);
      format.push_back(t.rewards.format);
      parsed += t.rating ? 1 : 0;
      stage2_parsed += t.stage2_rating ? 1 : 0;
      truncated += t.finished ? 0 : 1;
      if (t.caption) {
        ++captions;
        caption_words += static_cast<double>(word_count(*t.caption));
        leaks += t.rating && leaks_rating(*t.caption, *t.rating) ? 1 : 0;
      }
      if (t.reasoning) {
        ++reasonings;
        reasoning_words += static_cast<double>(word_count(*t.reasoning));
      }
    }
  }
  metrics.images = static_cast<std::int64_t>(groups.size());
  if (metrics.trajectories == 0) return metrics;
  const auto count = static_cast<double>(metrics.trajectories);
  metrics.reward_mean = mean(reward);
  metrics.reward_std = standard_deviation(reward);
  metrics.reward_prediction_mean = mean(prediction);
  metrics.reward_consistency_mean = mean(consistency);
  metrics.reward_reasoning_mean = mean(reasoning);
  metrics.reward_format_mean = mean(format);
  metrics.reward_prediction_std = standard_deviation(prediction);
  metrics.reward_consistency_std = standard_deviation(consistency);
  metrics.reward_reasoning_std = standard_deviation(reasoning);
  metrics.reward_format_std = standard_deviation(format);
  metrics.parse_rate = parsed / count;
  metrics.stage2_parse_rate = config.stage2.enabled ? stage2_parsed / count : kNotMeasured;
  metrics.leak_rate = captions > 0 ? leaks / captions : 0;
  metrics.truncated_fraction = truncated / count;
  metrics.length_mean = static_cast<double>(metrics.generated_tokens) / count;
  metrics.caption_words = captions > 0 ? caption_words / captions : 0;
  metrics.reasoning_words = reasonings > 0 ? reasoning_words / reasonings : 0;
  return metrics;
}

SampleRecord record_of(std::int64_t step, const Group& group, const Trajectory& t, const Config& config) {
  return {step,
          group.sample_id,
          t.member,
          config.prompts.texts.user,
          t.text,
          t.caption.value_or(""),
          t.reasoning.value_or(""),
          t.rating,
          t.stage2_text,
          t.stage2_rating,
          group.score,
          {{"prediction", t.rewards.prediction},
           {"consistency", t.rewards.consistency},
           {"reasoning", t.rewards.reasoning},
           {"format", t.rewards.format}},
          t.advantage};
}

std::vector<std::string> doubts_about(const StepMetrics& metrics, const Config& config, bool on_policy) {
  std::vector<std::string> doubts;
  if (metrics.parse_rate < 0.5) {
    doubts.push_back(fmt::format(
        "only {:.0f} % of the answers hold a rating: the rewards teach little; check prompts and profile",
        100 * metrics.parse_rate));
  }
  const RewardColumns& w = config.rewards.weights;
  const auto constant = [&](const char* name, double weight, double deviation, double value) {
    if (weight != 0 && deviation == 0)
      doubts.push_back(
          fmt::format("reward {} is {} for every answer: it teaches nothing in this step", name, value));
  };
  constant("prediction", w.prediction, metrics.reward_prediction_std, metrics.reward_prediction_mean);
  if (config.stage2.enabled)
    constant("consistency", w.consistency, metrics.reward_consistency_std, metrics.reward_consistency_mean);
  constant("reasoning", w.reasoning, metrics.reward_reasoning_std, metrics.reward_reasoning_mean);
  // Every answer well formed is the aim, not a fault.
  if (metrics.reward_format_mean == 0) constant("format", w.format, metrics.reward_format_std, 0);
  if (on_policy && config.objective.updates_per_rollout == 1 && config.lora.dropout == 0 &&
      metrics.actor_learner_logp_gap != 0) {
    doubts.push_back(
        fmt::format("actor and learner disagree by {:.3g} in a log-probability though the step is on-policy",
                    metrics.actor_learner_logp_gap));
  }
  return doubts;
}

}  // namespace biqa
