// SPDX-License-Identifier: Apache-2.0
#include "training/step_records.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "training/step_figures.h"

namespace biqa {

StepRecords::StepRecords(const Config& config, const TrainingData& data, RunFolder folder, std::int64_t step,
                         double gpu_peak)
    : config_(config),
      data_(data),
      folder_(std::move(folder)),
      progress_("step", data.steps, step,
                config.train.progress ? ProgressMode::automatic : ProgressMode::off),
      reward_watch_(config),
      gpu_peak_(gpu_peak),
      recorded_step_(step) {}

void StepRecords::learned(const LearnedStep& learned, std::int64_t version) {
  write_samples(learned);
  const UpdateResult& result = learned.result;
  metrics_ = figures_of(learned.groups, version, config_);
  metrics_.step = learned.step;
  metrics_.epoch = data_.epochs_after(learned.step);
  metrics_.time = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  metrics_.zero_variance_fraction = learned.zero_variance;
  metrics_.trained_tokens = static_cast<std::int64_t>(result.tokens);
  metrics_.loss = result.loss;
  metrics_.kl = result.kl;
  metrics_.ratio_max_deviation = result.ratio_max_deviation;
  metrics_.actor_learner_logp_gap = result.logp_max_gap;
  metrics_.clip_fraction = result.clip_fraction;
  metrics_.entropy = result.entropy;
  metrics_.grad_norm = result.grad_norm;
  metrics_.lr = learned.lr;
  if (gpu_peak_ > 0) step_flop_ = step_flop(ModelConfig::load(config_.model.path), learned.groups, config_);
  if (learned.groups.empty())
    metrics_.images = metrics_.trajectories = static_cast<std::int64_t>(learned.images);
}

/// Writes the first train.samples_per_step trajectories, or all.
void StepRecords::write_samples(const LearnedStep& learned) {
  std::int64_t written = 0;
  for (const Group& group : learned.groups) {
    for (const Trajectory& trajectory : group.members) {
      if (config_.train.samples_per_step > 0 && written++ >= config_.train.samples_per_step) return;
      folder_.append(record_of(learned.step, group, trajectory, config_));
    }
  }
}

void StepRecords::add_report(const StepReport& report) {
  metrics_.rollout_seconds = std::max(metrics_.rollout_seconds, report.rollout);
  metrics_.stage2_seconds = std::max(metrics_.stage2_seconds, report.stage2);
  metrics_.reward_seconds = std::max(metrics_.reward_seconds, report.reward);
  metrics_.learn_seconds = std::max(metrics_.learn_seconds, report.learn);
  if (report.device_peak_bytes > 0)
    metrics_.device_peak_bytes =
        std::fmax(metrics_.device_peak_bytes, static_cast<double>(report.device_peak_bytes));
  for (std::size_t kind = 0; kind < report.sent.size(); ++kind) {
    traffic_[kind] += report.sent[kind];
    metrics_.traffic_bytes += static_cast<std::int64_t>(report.sent[kind]);
  }
}

void StepRecords::end_step(double sync_seconds, double step_seconds) {
  metrics_.sync_seconds = sync_seconds;
  metrics_.step_seconds = step_seconds;
  if (step_flop_ > 0 && step_seconds > 0) metrics_.mfu = step_flop_ / (step_seconds * gpu_peak_);
}

void StepRecords::record(std::int64_t step) {
  if (recorded_step_ >= step) return;
  if (metrics_.step != step) fail("cannot write the metrics of step {}: they are incomplete", step);
  metrics_.version = step;
  folder_.append(metrics_);
  recorded_step_ = step;
}

void StepRecords::comment(bool on_policy) {
  std::string summary = fmt::format("loss {:.3f}", metrics_.loss);
  if (!row_of(config_.objective.loss.loss).imitates) {
    std::vector<std::string> doubts = doubts_about(metrics_, config_, on_policy);
    for (std::string& doubt : reward_watch_.look_at(metrics_)) doubts.push_back(std::move(doubt));
    for (const std::string& doubt : doubts) {
      progress_.clear();
      LOG(WARNING) << "step " << metrics_.step << ": " << doubt;
    }
    summary = fmt::format("reward {:.3f}  kl {:.3f}  {:.0f} tokens", metrics_.reward_mean, metrics_.kl,
                          metrics_.length_mean);
  }
  progress_.update(metrics_.step, summary + speed_text(metrics_));
}

void StepRecords::print_traffic(std::int64_t steps, int ranks) const {
  if (ranks == 1 || steps <= 0) return;
  std::vector<std::string> parts;
  for (int kind = 0; kind < kOperations; ++kind) {
    const auto bytes = traffic_[static_cast<std::size_t>(kind)] / static_cast<std::uint64_t>(steps);
    if (bytes > 0)
      parts.push_back(fmt::format("{} {:.1f} KiB", name_of(static_cast<Operation>(kind)),
                                  static_cast<double>(bytes) / 1024));
  }
  say("traffic of a step, {} ranks together: {}\n", ranks, fmt::join(parts, ", "));
}

}  // namespace biqa
