// SPDX-License-Identifier: Apache-2.0
#include "training/step_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/statistics.h"
#include "data/response.h"
#include "model/model_sizes.h"

namespace biqa {

StepMetrics figures_of(std::span<const Group> groups, std::int64_t version, const Config& config) {
  StepMetrics metrics;
  std::vector<double> totals;
  std::vector<std::vector<double>> columns(rewards().size());
  double parsed = 0, stage2_parsed = 0, leaks = 0, captions = 0, truncated = 0, caption_words = 0,
         reasoning_words = 0, reasonings = 0;
  for (const Group& group : groups) {
    for (const Trajectory& t : group.members) {
      ++metrics.trajectories;
      metrics.generated_tokens += static_cast<std::int64_t>(t.completion_ids.size());
      metrics.stage2_tokens += static_cast<std::int64_t>(t.stage2_completion_ids.size());
      metrics.policy_lag_max = std::max(metrics.policy_lag_max, version - t.policy_version);
      totals.push_back(t.reward);
      for (std::size_t i = 0; i < columns.size(); ++i) columns[i].push_back(reward_of(t, i));
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
  metrics.reward_weights = weights_at(config.rewards.weights, groups.front().step);
  const auto count = static_cast<double>(metrics.trajectories);
  metrics.reward_mean = mean(totals);
  metrics.reward_std = standard_deviation(totals);
  for (std::size_t i = 0; i < columns.size(); ++i) {
    metrics.reward_means[i] = mean(columns[i]);
    metrics.reward_stds[i] = standard_deviation(columns[i]);
  }
  metrics.parse_rate = parsed / count;
  metrics.stage2_parse_rate = config.stage2.enabled ? stage2_parsed / count : kNotMeasured;
  metrics.leak_rate = captions > 0 ? leaks / captions : 0;
  metrics.truncated_fraction = truncated / count;
  metrics.length_mean = static_cast<double>(metrics.generated_tokens) / count;
  metrics.caption_words = captions > 0 ? caption_words / captions : 0;
  metrics.reasoning_words = reasonings > 0 ? reasoning_words / reasonings : 0;
  return metrics;
}

double step_flop(const ModelConfig& model, std::span<const Group> groups, const Config& config) {
  const ModelFlop flop(model);
  double rollout = 0;
  double learned = 0;  // a forward pass of the learner
  for (const Group& group : groups) {
    const auto prompt = static_cast<double>(group.prompt_ids.size());
    rollout += flop.prompt(prompt);
    learned += flop.prompt(prompt);
    for (const Trajectory& t : group.members) {
      const auto tokens = static_cast<double>(t.completion_ids.size());
      // The last token is only a result.
      const double completion = flop.continuation(std::max(0.0, tokens - 1), prompt) + flop.head(tokens);
      rollout += completion;
      learned += completion;
      const auto stage2 = static_cast<double>(t.stage2_completion_ids.size());
      if (stage2 == 0) continue;
      const auto stage2_prompt = static_cast<double>(t.stage2_prompt_ids.size());
      const double second =
          flop.prompt(stage2_prompt) + flop.continuation(stage2 - 1, stage2_prompt) + flop.head(stage2);
      rollout += second;
      if (config.stage2.train) learned += second;
    }
  }
  const double passes = config.objective.loss.beta != 0 ? 3 : 2;
  return rollout + static_cast<double>(config.objective.updates_per_rollout) * passes * learned;
}

std::string speed_text(const StepMetrics& metrics) {
  const bool sampled = metrics.generated_tokens > 0;
  const auto tokens = static_cast<double>(sampled ? metrics.generated_tokens + metrics.stage2_tokens
                                                  : metrics.trained_tokens);
  const double seconds = sampled ? metrics.rollout_seconds : metrics.learn_seconds;
  std::string text;
  if (seconds > 0) text += fmt::format("  {:.0f} tokens/s", tokens / seconds);
  if (std::isfinite(metrics.mfu)) text += fmt::format("  mfu {:.1f} %", 100 * metrics.mfu);
  return text;
}

SampleRecord record_of(std::int64_t step, const Group& group, const Trajectory& t, const Config& config) {
  std::map<std::string, double> columns;
  for (std::size_t i = 0; i < rewards().size(); ++i) columns.emplace(rewards()[i].name, reward_of(t, i));
  std::map<std::string, double> parts;
  for (std::size_t p = 0; t.part_advantages && p < kCompletionParts; ++p)
    parts.emplace(kCompletionPartNames[p].name, (*t.part_advantages)[p]);
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
          group.annotation.score,
          std::move(columns),
          t.advantage,
          std::move(parts)};
}

std::vector<std::string> doubts_about(const StepMetrics& metrics, const Config& config, bool on_policy) {
  std::vector<std::string> doubts;
  if (metrics.parse_rate < 0.5) {
    doubts.push_back(fmt::format(
        "only {:.0f} % of the completions have a rating: the rewards teach little; check prompts and profile",
        100 * metrics.parse_rate));
  }
  if (on_policy && config.objective.updates_per_rollout == 1 && config.lora.dropout == 0 &&
      metrics.actor_learner_logp_gap != 0) {
    doubts.push_back(
        fmt::format("actor and learner disagree by {:.3g} in a log-probability though the step is on-policy",
                    metrics.actor_learner_logp_gap));
  }
  return doubts;
}

}  // namespace biqa
