// SPDX-License-Identifier: Apache-2.0
#include "evaluation/evaluation.h"

#include <cmath>

#include "config/best_metric.h"
#include "core/names.h"
#include "core/statistics.h"
#include "data/response.h"
#include "data/rouge.h"

namespace biqa {

namespace {

/// Ratings and human scores of the same images.
struct Pairs {
  std::vector<double> ratings, scores;

  void add(double rating, double score) {
    ratings.push_back(rating);
    scores.push_back(score);
  }
  double distance() const { return ratings.empty() ? kNotMeasured : rmse(ratings, scores); }
};

}  // namespace

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
    Pairs all_pairs, in_scale;
    std::vector<double> precision, recall, f1;
    for (const Group& group : groups) {
      const Trajectory& answer = group.members.front();
      const auto& rating = from_caption ? answer.stage2_rating : answer.rating;
      const bool off = answer_out_of_scale(profile, rating, from_caption ? answer.stage2_text : answer.text);
      ++metrics.n;
      metrics.out_of_scale += off ? 1 : 0;
      if (rating) {
        all_pairs.add(*rating, group.annotation.score);
        if (!off) in_scale.add(*rating, group.annotation.score);
      } else {
        ++metrics.parse_failures;
      }
      if (!from_caption && !group.annotation.human_text.empty()) {
        const Rouge rouge = rouge1(group.annotation.human_text, answer.text);
        precision.push_back(rouge.precision);
        recall.push_back(rouge.recall);
        f1.push_back(rouge.f1);
      }
    }
    metrics.plcc = pearson(all_pairs.ratings, all_pairs.scores);
    metrics.srcc = spearman(all_pairs.ratings, all_pairs.scores);
    metrics.krcc = kendall_tau_b(all_pairs.ratings, all_pairs.scores);
    metrics.rmse = all_pairs.distance();
    metrics.plcc_in_scale = pearson(in_scale.ratings, in_scale.scores);
    metrics.srcc_in_scale = spearman(in_scale.ratings, in_scale.scores);
    metrics.rmse_in_scale = in_scale.distance();
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
