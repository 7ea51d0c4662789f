// SPDX-License-Identifier: Apache-2.0
#include "app/evaluation.h"

#include "core/statistics.h"
#include "data/rouge.h"

namespace biqa {

std::vector<EvalMetrics> evaluate_groups(std::span<const Group> groups, std::int64_t step,
                                         const std::string& set, const std::string& decoding, bool caption) {
  std::vector<EvalMetrics> all;
  for (const bool from_caption : {false, true}) {
    if (from_caption && !caption) continue;
    EvalMetrics metrics;
    metrics.step = step;
    metrics.set = set;
    metrics.condition = from_caption ? "caption" : "image";
    metrics.decoding = decoding;
    std::vector<double> ratings, scores, precision, recall, f1;
    for (const Group& group : groups) {
      const Trajectory& answer = group.members.front();
      const auto& rating = from_caption ? answer.stage2_rating : answer.rating;
      ++metrics.n;
      if (rating) {
        ratings.push_back(*rating);
        scores.push_back(group.score);
      } else {
        ++metrics.parse_failures;
      }
      if (!from_caption && !group.human_text.empty()) {
        const Rouge rouge = rouge1(group.human_text, answer.text);
        precision.push_back(rouge.precision);
        recall.push_back(rouge.recall);
        f1.push_back(rouge.f1);
      }
    }
    metrics.plcc = pearson(ratings, scores);
    metrics.srcc = spearman(ratings, scores);
    metrics.krcc = kendall_tau_b(ratings, scores);
    metrics.rmse = ratings.empty() ? kNotMeasured : rmse(ratings, scores);
    if (!precision.empty()) {
      metrics.rouge1_p = mean(precision);
      metrics.rouge1_r = mean(recall);
      metrics.rouge1_f = mean(f1);
    }
    all.push_back(metrics);
  }
  return all;
}

}  // namespace biqa
