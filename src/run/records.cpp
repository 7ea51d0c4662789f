// SPDX-License-Identifier: Apache-2.0
#include "run/records.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <type_traits>

#include <fmt/format.h>

#include "core/error.h"
#include "io/json.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Groups of TensorBoard. Those of a step's record stand before its names, for example "train/loss".
constexpr const char *kNoScalar = "", *kTrain = "train", *kTime = "time", *kTexts = "texts",
                     *kReward = "reward", *kEval = "eval";

// The only list of names and their order (docs/metrics.md). Calls visit(name, member, TensorBoard's group) for each.
template <typename Metrics, typename Visit>
requires std::is_same_v<std::remove_const_t<Metrics>, StepMetrics>
void for_each_field(Metrics& m, Visit&& visit) {
  visit("step", m.step, kNoScalar);
  visit("version", m.version, kTrain);
  visit("epoch", m.epoch, kTrain);
  visit("time", m.time, kNoScalar);
  visit("step_seconds", m.step_seconds, kTime);
  visit("rollout_seconds", m.rollout_seconds, kTime);
  visit("stage2_seconds", m.stage2_seconds, kTime);
  visit("reward_seconds", m.reward_seconds, kTime);
  visit("learn_seconds", m.learn_seconds, kTime);
  visit("sync_seconds", m.sync_seconds, kTime);
  visit("images", m.images, kTrain);
  visit("trajectories", m.trajectories, kTrain);
  visit("generated_tokens", m.generated_tokens, kTrain);
  visit("stage2_tokens", m.stage2_tokens, kTrain);
  visit("trained_tokens", m.trained_tokens, kTrain);
  visit("reward_mean", m.reward_mean, kReward);
  visit("reward_std", m.reward_std, kReward);
  for (std::size_t i = 0; i < rewards().size(); ++i)
    visit(fmt::format("reward_{}_mean", rewards()[i].name).c_str(), m.reward_means[i], kReward);
  for (std::size_t i = 0; i < rewards().size(); ++i)
    visit(fmt::format("reward_{}_std", rewards()[i].name).c_str(), m.reward_stds[i], kReward);
  for (std::size_t i = 0; i < rewards().size(); ++i)
    visit(fmt::format("reward_{}_weight", rewards()[i].name).c_str(), m.reward_weights[i], kReward);
  visit("parse_rate", m.parse_rate, kTexts);
  visit("stage2_parse_rate", m.stage2_parse_rate, kTexts);
  visit("zero_variance_fraction", m.zero_variance_fraction, kTexts);
  visit("leak_rate", m.leak_rate, kTexts);
  visit("truncated_fraction", m.truncated_fraction, kTexts);
  visit("length_mean", m.length_mean, kTexts);
  visit("caption_words", m.caption_words, kTexts);
  visit("reasoning_words", m.reasoning_words, kTexts);
  visit("loss", m.loss, kTrain);
  visit("kl", m.kl, kTrain);
  visit("ratio_max_deviation", m.ratio_max_deviation, kTrain);
  visit("actor_learner_logp_gap", m.actor_learner_logp_gap, kTrain);
  visit("clip_fraction", m.clip_fraction, kTrain);
  visit("entropy", m.entropy, kTrain);
  visit("grad_norm", m.grad_norm, kTrain);
  visit("lr", m.lr, kTrain);
  visit("policy_lag_max", m.policy_lag_max, kTrain);
  visit("traffic_bytes", m.traffic_bytes, kTrain);
  visit("mfu", m.mfu, kTrain);
  visit("device_peak_bytes", m.device_peak_bytes, kTrain);
}

template <typename Metrics, typename Visit>
requires std::is_same_v<std::remove_const_t<Metrics>, EvalMetrics>
void for_each_field(Metrics& m, Visit&& visit) {
  visit("step", m.step, kNoScalar);
  visit("eval", m.set, kNoScalar);
  visit("condition", m.condition, kNoScalar);
  visit("decoding", m.decoding, kNoScalar);
  visit("n", m.n, kEval);
  visit("parse_failures", m.parse_failures, kEval);
  visit("out_of_scale", m.out_of_scale, kEval);
  visit("plcc", m.plcc, kEval);
  visit("srcc", m.srcc, kEval);
  visit("krcc", m.krcc, kEval);
  visit("rmse", m.rmse, kEval);
  visit("plcc_in_scale", m.plcc_in_scale, kEval);
  visit("srcc_in_scale", m.srcc_in_scale, kEval);
  visit("rmse_in_scale", m.rmse_in_scale, kEval);
  visit("rouge1_p", m.rouge1_p, kEval);
  visit("rouge1_r", m.rouge1_r, kEval);
  visit("rouge1_f", m.rouge1_f, kEval);
}

template <typename Record, typename Visit>
requires std::is_same_v<std::remove_const_t<Record>, SampleRecord>
void for_each_field(Record& m, Visit&& visit) {
  visit("step", m.step, kNoScalar);
  visit("id", m.id, kNoScalar);
  visit("member", m.member, kNoScalar);
  visit("prompt", m.prompt, kNoScalar);
  visit("text", m.text, kNoScalar);
  visit("caption", m.caption, kNoScalar);
  visit("reasoning", m.reasoning, kNoScalar);
  visit("rating", m.rating, kNoScalar);
  visit("stage2_text", m.stage2_text, kNoScalar);
  visit("stage2_rating", m.stage2_rating, kNoScalar);
  visit("score", m.score, kNoScalar);
  visit("rewards", m.rewards, kNoScalar);
  visit("advantage", m.advantage, kNoScalar);
  visit("part_advantages", m.part_advantages, kNoScalar);
}

template <typename T>
Json json_of(const T& value) {
  return value;
}
Json json_of(const std::optional<double>& value) {
  return value ? Json(*value) : Json();
}

template <typename Record>
std::string line_of(const Record& record) {
  Json line = Json::object();
  for_each_field(record, [&](const char* name, const auto& value, auto) { line[name] = json_of(value); });
  // nlohmann::json writes doubles so that they round-trip, whatever the locale, and NaN and infinities as null.
  return json_text(line);
}

void read_value(const JsonFields& fields, const char* name, std::int64_t& value) {
  value = fields.integer(name).value_or(value);
}
void read_value(const JsonFields& fields, const char* name, double& value) {
  value = fields.number(name).value_or(value);
}
void read_value(const JsonFields& fields, const char* name, std::string& value) {
  value = fields.text(name).value_or(value);
}

void read_value(const JsonFields& fields, const char* name, std::optional<double>& value) {
  value = fields.number(name);
}
void read_value(const JsonFields& fields, const char* name, std::map<std::string, double>& values) {
  const std::optional<JsonFields> object = fields.object(name);
  if (!object) return;
  // The known names of both objects with numbers: rewards and parts.
  std::vector<std::string> names;
  for (const Reward& reward : rewards()) names.emplace_back(reward.name);
  for (const auto& part : kCompletionPartNames) names.emplace_back(part.name);
  for (const std::string& known : names) {
    if (const auto value = object->number(known)) values[known] = *value;
  }
}

template <typename Record>
Record record_from(const JsonFields& fields) {
  Record record;
  for_each_field(record, [&](const char* name, auto& value, auto) { read_value(fields, name, value); });
  return record;
}

/// Calls `visit` with the fields of each whole line.
void read_lines(const fs::path& file, const std::function<void(const JsonFields&)>& visit) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) {
    fail("cannot read {}: it cannot be opened; give a run folder that contains {}", file.string(),
         file.filename().string());
  }
  std::int64_t number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    if (stream.eof()) break;  // a line that is just being written
    const std::string where = fmt::format("{}:{}", file.string(), number);
    const nlohmann::json object = parse_json(line, where);
    visit(JsonFields(object, where));
  }
}

template <typename Metrics>
double number_in(const Metrics& metrics, std::string_view column) {
  double found = kNotMeasured;
  for_each_field(metrics, [&](std::string_view name, const auto& value, auto) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
      if (name == column) found = static_cast<double>(value);
    }
  });
  return found;
}

/// tag(name, group) names a scalar.
template <typename Metrics, typename Tag>
std::vector<TensorboardScalar> tagged_scalars(const Metrics& metrics, Tag&& tag) {
  std::vector<TensorboardScalar> scalars;
  for_each_field(metrics, [&](std::string_view name, const auto& value, std::string_view group) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
      if (group == kNoScalar || !std::isfinite(static_cast<float>(value))) return;
      scalars.push_back({tag(name, group), static_cast<double>(value)});
    }
  });
  return scalars;
}

}  // namespace

std::string to_json_line(const StepMetrics& metrics) {
  return line_of(metrics);
}
std::string to_json_line(const EvalMetrics& metrics) {
  return line_of(metrics);
}
std::string to_json_line(const SampleRecord& sample) {
  return line_of(sample);
}

MetricsFile read_metrics(const fs::path& file) {
  MetricsFile metrics;
  read_lines(file, [&](const JsonFields& fields) {
    if (fields.has("eval"))
      metrics.evaluations.push_back(record_from<EvalMetrics>(fields));
    else
      metrics.steps.push_back(record_from<StepMetrics>(fields));
  });
  return metrics;
}

void read_samples(const fs::path& file, const std::function<void(const SampleRecord&)>& visit) {
  read_lines(file, [&](const JsonFields& fields) { visit(record_from<SampleRecord>(fields)); });
}

double column_of(const EvalMetrics& metrics, std::string_view column) {
  return number_in(metrics, column);
}
double column_of(const StepMetrics& metrics, std::string_view column) {
  return number_in(metrics, column);
}

std::vector<TensorboardScalar> scalars_of(const StepMetrics& metrics) {
  return tagged_scalars(metrics, [](std::string_view name, std::string_view group) {
    // The rewards' group is a part of their names: "reward_prediction_mean" → "reward/prediction_mean".
    if (group == kReward) name.remove_prefix(group.size() + 1);
    return fmt::format("{}/{}", group, name);
  });
}

std::vector<TensorboardScalar> scalars_of(const EvalMetrics& metrics) {
  return tagged_scalars(metrics, [&](std::string_view name, std::string_view group) {
    return fmt::format("{}/{}/{}/{}/{}", group, metrics.set, metrics.condition, metrics.decoding, name);
  });
}

}  // namespace biqa
