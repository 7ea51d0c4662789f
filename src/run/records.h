// SPDX-License-Identifier: Apache-2.0
// The lines of metrics.jsonl and samples.jsonl. records.cpp names each column once, for writer and reader.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tensorboard.h"
#include "reward/table.h"

namespace biqa {

/// A metric that was not measured. Written as null and read as NaN.
inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

/// One training step: a line of metrics.jsonl with these names in this order.
struct StepMetrics {
  std::int64_t step = 0;     ///< from 1
  std::int64_t version = 0;  ///< version of the adapter that this step produced
  double epoch = 0;          ///< passes over the training set, with fraction
  double time = 0;           ///< seconds since 1970 at the step's end
  // Seconds of wall time.
  double step_seconds = 0, rollout_seconds = 0, stage2_seconds = 0, reward_seconds = 0, learn_seconds = 0,
         sync_seconds = 0;
  std::int64_t images = 0, trajectories = 0, generated_tokens = 0, stage2_tokens = 0, trained_tokens = 0;
  // Over the step's trajectories: the weighted sum, then each reward before its weight. Standard deviations divide by n
  // - 1.
  double reward_mean = kNotMeasured, reward_std = kNotMeasured;
  // One value per row of the reward table: `reward_NAME_mean`, `reward_NAME_std` and `reward_NAME_weight`.
  std::vector<double> reward_means = std::vector<double>(rewards().size(), kNotMeasured),
                      reward_stds = std::vector<double>(rewards().size(), kNotMeasured),
                      reward_weights = std::vector<double>(rewards().size(), kNotMeasured);
  // Fractions between 0 and 1.
  double parse_rate = kNotMeasured, stage2_parse_rate = kNotMeasured, zero_variance_fraction = kNotMeasured,
         leak_rate = kNotMeasured, truncated_fraction = kNotMeasured;
  // Means: tokens of a completion; words of caption and reasoning.
  double length_mean = kNotMeasured, caption_words = kNotMeasured, reasoning_words = kNotMeasured;
  double loss = kNotMeasured, kl = kNotMeasured, ratio_max_deviation = kNotMeasured,
         actor_learner_logp_gap = kNotMeasured, clip_fraction = kNotMeasured, entropy = kNotMeasured,
         grad_norm = kNotMeasured, lr = kNotMeasured;
  std::int64_t policy_lag_max = 0;
  /// bytes sent by all ranks together, including messages to themselves, without evaluations
  std::int64_t traffic_bytes = 0;
  /// share of the GPUs' peak, and most bytes of tensors on one GPU so far; on the CPU not measured
  double mfu = kNotMeasured, device_peak_bytes = kNotMeasured;
};

/// One evaluation set with one condition and decoding: a line of metrics.jsonl.
struct EvalMetrics {
  std::int64_t step = 0;  ///< 0: before the first step
  std::string set;        ///< written as "eval"
  std::string condition;  ///< "image" or "caption"
  std::string decoding;   ///< "greedy" or "sampled"
  std::int64_t n = 0, parse_failures = 0, out_of_scale = 0;
  double plcc = kNotMeasured, srcc = kNotMeasured, krcc = kNotMeasured, rmse = kNotMeasured,
         plcc_in_scale = kNotMeasured, srcc_in_scale = kNotMeasured, rmse_in_scale = kNotMeasured,
         rouge1_p = kNotMeasured, rouge1_r = kNotMeasured, rouge1_f = kNotMeasured;
};

/// One trajectory: a line of samples.jsonl.
struct SampleRecord {
  std::int64_t step = 0;
  std::string id;           ///< of the sample
  std::int64_t member = 0;  ///< of its group, from 0
  std::string prompt, text, caption, reasoning;
  std::optional<double> rating;
  std::string stage2_text;
  std::optional<double> stage2_rating;
  double score = 0;                       ///< human score
  std::map<std::string, double> rewards;  ///< by name in the reward table, before weighting
  double advantage = 0;
  std::map<std::string, double> part_advantages;  ///< by name of the part (data/token_parts.h)
};

/// One JSON line without line end. Names are in the order of the struct. Floats are read back exactly. NaN and
/// infinities become null. Bytes that are not UTF-8 are replaced, as by json_text().
std::string to_json_line(const StepMetrics& metrics);
std::string to_json_line(const EvalMetrics& metrics);
std::string to_json_line(const SampleRecord& sample);

/// The content of metrics.jsonl.
struct MetricsFile {
  std::vector<StepMetrics> steps;
  std::vector<EvalMetrics> evaluations;
};
/// Reads metrics.jsonl. Unknown keys are ignored, missing keys keep their defaults, and an incomplete last line is
/// skipped. Throws Error with file:line.
MetricsFile read_metrics(const std::filesystem::path& file);
/// Calls `visit` for each line of samples.jsonl in order. Otherwise like read_metrics.
void read_samples(const std::filesystem::path& file, const std::function<void(const SampleRecord&)>& visit);

/// The value in this column. NaN if no column has this name, or if it was not measured.
double column_of(const EvalMetrics& metrics, std::string_view column);
double column_of(const StepMetrics& metrics, std::string_view column);

/// The numbers of a record for TensorBoard, without those that were not measured.
std::vector<TensorboardScalar> scalars_of(const StepMetrics& metrics);
std::vector<TensorboardScalar> scalars_of(const EvalMetrics& metrics);

}  // namespace biqa
