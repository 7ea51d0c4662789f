// SPDX-License-Identifier: Apache-2.0
#include "run/records.h"

#include <algorithm>
#include <array>
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

// The only list of names and their order (docs/metrics.md). Calls visit(name, member) for each.
template <typename Metrics, typename Visit>
requires std::is_same_v<std::remove_const_t<Metrics>, StepMetrics>
void for_each_field(Metrics& m, Visit&& visit) {
  visit("step", m.step);
  visit("version", m.version);
  visit("epoch", m.epoch);
  visit("time", m.time);
  visit("step_seconds", m.step_seconds);
  visit("rollout_seconds", m.rollout_seconds);
  visit("stage2_seconds", m.stage2_seconds);
  visit("reward_seconds", m.reward_seconds);
  visit("learn_seconds", m.learn_seconds);
  visit("sync_seconds", m.sync_seconds);
  visit("images", m.images);
  visit("trajectories", m.trajectories);
  visit("generated_tokens", m.generated_tokens);
  visit("stage2_tokens", m.stage2_tokens);
  visit("trained_tokens", m.trained_tokens);
  visit("reward_mean", m.reward_mean);
  visit("reward_std", m.reward_std);
  for (std::size_t i = 0; i < rewards().size(); ++i)
    visit(fmt::format("reward_{}_mean", rewards()[i].name).c_str(), m.reward_means[i]);
  for (std::size_t i = 0; i < rewards().size(); ++i)
    visit(fmt::format("reward_{}_std", rewards()[i].name).c_str(), m.reward_stds[i]);
  visit("parse_rate", m.parse_rate);
  visit("stage2_parse_rate", m.stage2_parse_rate);
  visit("zero_variance_fraction", m.zero_variance_fraction);
  visit("leak_rate", m.leak_rate);
  visit("truncated_fraction", m.truncated_fraction);
  visit("length_mean", m.length_mean);
  visit("caption_words", m.caption_words);
  visit("reasoning_words", m.reasoning_words);
  visit("loss", m.loss);
  visit("kl", m.kl);
  visit("ratio_max_deviation", m.ratio_max_deviation);
  visit("actor_learner_logp_gap", m.actor_learner_logp_gap);
  visit("clip_fraction", m.clip_fraction);
  visit("entropy", m.entropy);
  visit("grad_norm", m.grad_norm);
  visit("lr", m.lr);
  visit("policy_lag_max", m.policy_lag_max);
  visit("traffic_bytes", m.traffic_bytes);
}

template <typename Metrics, typename Visit>
requires std::is_same_v<std::remove_const_t<Metrics>, EvalMetrics>
void for_each_field(Metrics& m, Visit&& visit) {
  visit("step", m.step);
  visit("eval", m.set);
  visit("condition", m.condition);
  visit("decoding", m.decoding);
  visit("n", m.n);
  visit("parse_failures", m.parse_failures);
  visit("out_of_scale", m.out_of_scale);
  visit("plcc", m.plcc);
  visit("srcc", m.srcc);
  visit("krcc", m.krcc);
  visit("rmse", m.rmse);
  visit("plcc_in_scale", m.plcc_in_scale);
  visit("srcc_in_scale", m.srcc_in_scale);
  visit("rmse_in_scale", m.rmse_in_scale);
  visit("rouge1_p", m.rouge1_p);
  visit("rouge1_r", m.rouge1_r);
  visit("rouge1_f", m.rouge1_f);
}

template <typename Record, typename Visit>
requires std::is_same_v<std::remove_const_t<Record>, SampleRecord>
void for_each_field(Record& m, Visit&& visit) {
  visit("step", m.step);
  visit("id", m.id);
  visit("member", m.member);
  visit("prompt", m.prompt);
  visit("text", m.text);
  visit("caption", m.caption);
  visit("reasoning", m.reasoning);
  visit("rating", m.rating);
  visit("stage2_text", m.stage2_text);
  visit("stage2_rating", m.stage2_rating);
  visit("score", m.score);
  visit("rewards", m.rewards);
  visit("advantage", m.advantage);
}

// nlohmann::json writes doubles so that they round-trip, whatever the locale, and NaN and infinities as null.
std::string dump(const Json& line) {
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
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
  for_each_field(record, [&](const char* name, const auto& value) { line[name] = json_of(value); });
  return dump(line);
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
  for (const Reward& reward : rewards()) {
    if (const auto value = object->number(std::string(reward.name)))
      values[std::string(reward.name)] = *value;
  }
}

template <typename Record>
Record record_from(const JsonFields& fields) {
  Record record;
  for_each_field(record, [&](const char* name, auto& value) { read_value(fields, name, value); });
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

// "reward_prediction_mean" → "reward/prediction_mean"; names without a group of their own go under "train".
std::string tensorboard_tag(std::string_view name) {
  if (name.starts_with("reward_") && name != "reward_seconds")
    return fmt::format("reward/{}", name.substr(7));
  if (name.ends_with("_seconds")) return fmt::format("time/{}", name);
  static constexpr std::array<std::string_view, 8> kTexts{
      "parse_rate",  "stage2_parse_rate", "leak_rate",       "truncated_fraction",
      "length_mean", "caption_words",     "reasoning_words", "zero_variance_fraction"};
  const bool is_text = std::find(kTexts.begin(), kTexts.end(), name) != kTexts.end();
  return fmt::format("{}/{}", is_text ? "texts" : "train", name);
}

template <typename Metrics, typename Tag>
std::vector<TensorboardScalar> tagged_scalars(const Metrics& metrics, Tag&& tag) {
  std::vector<TensorboardScalar> scalars;
  for_each_field(metrics, [&](std::string_view name, const auto& value) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
      if (name == "step" || name == "time" || !std::isfinite(static_cast<float>(value))) return;
      scalars.push_back({tag(name), static_cast<double>(value)});
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

std::vector<TensorboardScalar> scalars_of(const StepMetrics& metrics) {
  return tagged_scalars(metrics, tensorboard_tag);
}

std::vector<TensorboardScalar> scalars_of(const EvalMetrics& metrics) {
  return tagged_scalars(metrics, [&](std::string_view name) {
    return fmt::format("eval/{}/{}/{}/{}", metrics.set, metrics.condition, metrics.decoding, name);
  });
}

}  // namespace biqa
