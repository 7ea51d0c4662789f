// SPDX-License-Identifier: Apache-2.0
#include "run/run_folder.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include "core/error.h"
#include "io/append_file.h"
#include "io/files.h"
#include "io/json.h"
#include "io/tensorboard.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// The one list of names and their order (docs: contracts of metrics.jsonl); calls visit(name, member).
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

// nlohmann::json writes doubles so that they round-trip, whatever the locale, and NaN and infinities as null.
std::string dump(const Json& line) {
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

template <typename Metrics>
std::string metrics_line(const Metrics& metrics) {
  Json line = Json::object();
  for_each_field(metrics, [&](const char* name, const auto& value) { line[name] = value; });
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

template <typename Metrics>
Metrics metrics_from(const JsonFields& fields) {
  Metrics metrics;
  for_each_field(metrics, [&](const char* name, auto& value) { read_value(fields, name, value); });
  return metrics;
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
std::vector<TensorboardScalar> scalars_of(const Metrics& metrics, Tag&& tag) {
  std::vector<TensorboardScalar> scalars;
  for_each_field(metrics, [&](std::string_view name, const auto& value) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
      if (name == "step" || name == "time" || !std::isfinite(static_cast<float>(value))) return;
      scalars.push_back({tag(name), static_cast<double>(value)});
    }
  });
  return scalars;
}

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void make_folder(const fs::path& folder) {
  std::error_code problem, ignored;
  if (fs::is_symlink(folder, ignored) && !fs::exists(folder, ignored)) {
    fail(
        "cannot write into run folder {}: it is a link to {}, which is not there; make that folder or remove "
        "the link",
        folder.string(), fs::read_symlink(folder, ignored).string());
  }
  fs::create_directories(folder, problem);
  if (problem) {
    fail("cannot create run folder {}: {}; set train.out to a folder that can be written", folder.string(),
         problem.message());
  }
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    fail("cannot write into run folder {}: permission denied; set train.out to a folder that can be written",
         folder.string());
  }
}

// Cuts a file of JSON lines behind its last whole line of a step up to `last_step`. Lines stand in the order
// of their steps, so everything from the first later one on goes; without `evaluated` from the first figure of an
// evaluation of that step on. Gives the last step that is left, 0 for none.
std::int64_t keep_until(const fs::path& file, std::int64_t last_step, bool evaluated) {
  std::error_code problem;
  std::int64_t kept = 0;
  if (!fs::exists(file, problem)) return kept;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail("cannot read {}: it cannot be opened; check its permissions", file.string());
  std::uintmax_t keep = 0;
  std::int64_t number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    if (stream.eof()) break;  // no line end: torn
    const std::string where = fmt::format("{}:{}", file.string(), number);
    const nlohmann::json object = parse_json(line, where);
    const JsonFields fields(object, where);
    const std::optional<std::int64_t> step = fields.integer("step");
    if (!step) fields.missing("step");
    if (*step > last_step || (*step == last_step && !evaluated && fields.has("eval"))) break;
    kept = *step;
    keep += line.size() + 1;
  }
  stream.close();
  fs::resize_file(file, keep, problem);
  if (problem)
    fail("cannot shorten {} to its first {} bytes: {}; check its permissions", file.string(), keep,
         problem.message());
  return kept;
}

}  // namespace

std::string to_json_line(const StepMetrics& metrics) {
  return metrics_line(metrics);
}
std::string to_json_line(const EvalMetrics& metrics) {
  return metrics_line(metrics);
}

std::string to_json_line(const SampleRecord& sample) {
  const auto rating = [](const std::optional<double>& value) { return value ? Json(*value) : Json(); };
  Json line = Json::object();
  line["step"] = sample.step;
  line["id"] = sample.id;
  line["member"] = sample.member;
  line["prompt"] = sample.prompt;
  line["text"] = sample.text;
  line["caption"] = sample.caption;
  line["reasoning"] = sample.reasoning;
  line["rating"] = rating(sample.rating);
  line["stage2_text"] = sample.stage2_text;
  line["stage2_rating"] = rating(sample.stage2_rating);
  line["score"] = sample.score;
  line["rewards"] = sample.rewards;
  line["advantage"] = sample.advantage;
  return dump(line);
}

MetricsFile read_metrics(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream)
    fail("cannot read {}: it cannot be opened; give a run folder that holds metrics.jsonl", file.string());
  MetricsFile metrics;
  std::int64_t number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    if (stream.eof()) break;  // a line that is just being written
    const std::string where = fmt::format("{}:{}", file.string(), number);
    const nlohmann::json object = parse_json(line, where);
    const JsonFields fields(object, where);
    if (fields.has("eval")) {
      metrics.evaluations.push_back(metrics_from<EvalMetrics>(fields));
    } else {
      metrics.steps.push_back(metrics_from<StepMetrics>(fields));
    }
  }
  return metrics;
}

bool holds_a_run(const fs::path& root) {
  std::error_code problem;
  const std::uintmax_t bytes = fs::file_size(root / "metrics.jsonl", problem);
  return !problem && bytes > 0;
}

RunLock::RunLock(fs::path root) : root_(std::move(root)) {
  std::error_code ignored;
  for (fs::path folder = fs::absolute(root_, ignored).lexically_normal();
       !folder.empty() && !fs::exists(folder, ignored) && folder != folder.parent_path();
       folder = folder.parent_path())
    made_.push_back(folder);
  make_folder(root_);
  const fs::path file = root_ / ".lock";
  const bool fresh = !fs::exists(file, ignored);
  for (;;) {
    descriptor_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) {
      fail("cannot write into run folder {}: {}; set train.out to a folder that can be written",
           root_.string(), system_reason(errno));
    }
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) {
        LOG(WARNING) << "cannot lock " << file.string() << ": " << system_reason(errno)
                     << "; see to it that no other job trains in this folder";
        break;
      }
      ::close(std::exchange(descriptor_, -1));
      fail(
          "cannot start a run in {}: another process is running there; wait for it, or set train.out to "
          "another folder",
          root_.string());
    }
    // Whoever held it before may have removed the file meanwhile: then it locks nobody out.
    struct stat held {
    }, there{};
    if (::fstat(descriptor_, &held) == 0 && ::stat(file.c_str(), &there) == 0 &&
        held.st_ino == there.st_ino && held.st_dev == there.st_dev)
      break;
    ::close(std::exchange(descriptor_, -1));
    make_folder(root_);
  }
  if (fresh) made_.insert(made_.begin(), file);
}

RunLock::~RunLock() {
  if (descriptor_ < 0) return;
  std::error_code ignored;
  // Nothing beside the lock: no run has begun.
  const bool empty = std::distance(fs::directory_iterator(root_, ignored), fs::directory_iterator()) <= 1;
  for (const fs::path& path : made_) {
    if (!empty || !fs::remove(path, ignored) || ignored) break;
  }
  ::close(descriptor_);
}

RunLock::RunLock(RunLock&& other) noexcept
    : root_(std::move(other.root_)),
      made_(std::move(other.made_)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

struct RunFolder::Files {
  RunLock lock;
  AppendFile metrics, samples;
  TensorboardWriter tensorboard;
};

RunFolder::RunFolder(RunLock lock, const std::string& config_yaml, std::optional<std::int64_t> resumed_step,
                     bool evaluated)
    : root_(lock.root()) {
  if (!resumed_step && holds_a_run(root_)) {
    fail(
        "cannot start a run in {}: it holds one already (metrics.jsonl); set train.out to another folder, or "
        "checkpoint.resume: auto to go on with it",
        root_.string());
  }
  for (const fs::path& folder : {checkpoints(), dumps(), logs()}) make_folder(folder);
  remove_leftovers(root_);
  if (resumed_step) {
    keep_until(metrics_file(), *resumed_step, evaluated);
    const bool missing = !fs::exists(samples_file());
    const std::int64_t last = keep_until(samples_file(), *resumed_step, true);
    if (*resumed_step > 0 && missing)
      LOG(WARNING) << samples_file().string() << " is missing: the trajectories up to step " << *resumed_step
                   << " are lost";
    else if (last > 0 && last < *resumed_step)
      LOG(WARNING) << samples_file().string() << " ends with step " << last << ": trajectories up to step "
                   << *resumed_step << ", which the checkpoint has behind it, are lost";
  }
  write_file_atomically(root_ / "config.yaml", config_yaml);
  files_ =
      std::make_unique<Files>(Files{std::move(lock), AppendFile(metrics_file()), AppendFile(samples_file()),
                                    TensorboardWriter(root_ / "tensorboard")});
}

RunFolder::~RunFolder() = default;
RunFolder::RunFolder(RunFolder&&) noexcept = default;

fs::path RunFolder::dump_file(std::int64_t step) const {
  return dumps() / fmt::format("step-{:06}.h5", step);
}

void RunFolder::append(const StepMetrics& metrics) {
  files_->metrics.append(to_json_line(metrics) + '\n');
  files_->tensorboard.add(metrics.time, metrics.step, scalars_of(metrics, tensorboard_tag));
}

void RunFolder::append(std::span<const EvalMetrics> figures) {
  std::string lines;
  for (const EvalMetrics& metrics : figures) lines += to_json_line(metrics) + '\n';
  if (lines.empty()) return;
  files_->metrics.append(lines);
  for (const EvalMetrics& metrics : figures) {
    const auto tag = [&](std::string_view name) {
      return fmt::format("eval/{}/{}/{}/{}", metrics.set, metrics.condition, metrics.decoding, name);
    };
    files_->tensorboard.add(seconds_since_1970(), metrics.step, scalars_of(metrics, tag));
  }
}

void RunFolder::append(const SampleRecord& sample) {
  files_->samples.append(to_json_line(sample) + '\n');
}

}  // namespace biqa
