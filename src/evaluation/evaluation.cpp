// SPDX-License-Identifier: Apache-2.0
#include "evaluation/evaluation.h"

#include <cmath>

#include "config/best_metric.h"
#include "core/names.h"
#include "core/statistics.h"
#include "data/response.h"
#include "data/rouge.h"
#include "evaluation/agreement.h"

namespace biqa {

std::vector<EvalMetrics> evaluate_groups(std::span<const Group> groups, const Profile& profile,
                                         std::int64_t step, const std::string& set,
                                         const std::string& decoding, bool caption) {
  std::vector<EvalMetrics> all;
  for (const bool from_caption : {false, true}) {
    if (from_caption && !caption) continue;
    EvalMetrics metrics;
    metrics.step = step;
    metrics.set = set;
    metrics.condition = from_caption ? "caption" : "image";
    metrics.decoding = decoding;
    std::vector<RatedImage> images;
    std::vector<double> precision, recall, f1;
    for (const Group& group : groups) {
      const Trajectory& answer = group.members.front();
      const auto& rating = from_caption ? answer.stage2_rating : answer.rating;
      images.push_back(
          {group.annotation.score, rating,
           answer_out_of_scale(profile, rating, from_caption ? answer.stage2_text : answer.text)});
      if (!from_caption && !group.annotation.human_text.empty()) {
        const Rouge rouge = rouge1(group.annotation.human_text, answer.text);
        precision.push_back(rouge.precision);
        recall.push_back(rouge.recall);
        f1.push_back(rouge.f1);
      }
    }
    const Agreement agreement = agreement_of(images);
    metrics.n = agreement.n;
    metrics.parse_failures = agreement.parse_failures;
    metrics.out_of_scale = agreement.out_of_scale;
    metrics.plcc = agreement.plcc;
    metrics.srcc = agreement.srcc;
    metrics.krcc = agreement.krcc;
    metrics.rmse = agreement.rmse;
    metrics.plcc_in_scale = agreement.plcc_in_scale;
    metrics.srcc_in_scale = agreement.srcc_in_scale;
    metrics.rmse_in_scale = agreement.rmse_in_scale;
    if (!precision.empty()) {
      metrics.rouge1_p = mean(precision);
      metrics.rouge1_r = mean(recall);
      metrics.rouge1_f = mean(f1);
    }
    all.push_back(metrics);
  }
  return all;
}

double best_figure(std::span<const EvalMetrics> figures, const std::string& name) {
  const BestMetric& metric = row_of(kBestMetrics, name);
  for (const char* decoding : {"greedy", "sampled"}) {
    std::vector<double> values;
    for (const EvalMetrics& m : figures) {
      if (m.decoding != decoding || m.condition != metric.condition) continue;
      const double value = column_of(m, metric.column);
      if (std::isfinite(value)) values.push_back(value);
    }
    if (!values.empty()) return mean(values);
  }
  return kNotMeasured;
}

}  // namespace biqa
