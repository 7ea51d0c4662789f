// SPDX-License-Identifier: Apache-2.0
#include "evaluation/agreement.h"

#include <set>

#include "core/statistics.h"

namespace biqa {

ScoredRatings rated_only(std::span<const RatedImage> images) {
  ScoredRatings rated;
  for (const RatedImage& image : images) {
    if (image.rating) rated.add(*image.rating, image.score);
  }
  return rated;
}

namespace {

double spearman_with_failures(std::span<const RatedImage> images) {
  std::vector<double> ratings, scores;
  bool any = false;
  for (const RatedImage& image : images) {
    any = any || image.rating;
    ratings.push_back(image.rating.value_or(-std::numeric_limits<double>::infinity()));
    scores.push_back(image.score);
  }
  if (!any) return Agreement::kUndefined;
  return pearson(average_ranks(ratings), average_ranks(scores));
}

}  // namespace

Agreement agreement_of(std::span<const RatedImage> images) {
  Agreement result;
  ScoredRatings in_scale;
  for (const RatedImage& image : images) {
    ++result.n;
    result.out_of_scale += image.out_of_scale ? 1 : 0;
    result.parse_failures += image.rating ? 0 : 1;
    if (image.rating && !image.out_of_scale) in_scale.add(*image.rating, image.score);
  }
  const ScoredRatings all = rated_only(images);
  result.plcc = pearson(all.ratings, all.scores);
  result.srcc = spearman(all.ratings, all.scores);
  result.krcc = kendall_tau_b(all.ratings, all.scores);
  result.rmse = rmse(all.ratings, all.scores);
  result.mae = mean_absolute_error(all.ratings, all.scores);
  result.plcc_in_scale = pearson(in_scale.ratings, in_scale.scores);
  result.srcc_in_scale = spearman(in_scale.ratings, in_scale.scores);
  result.rmse_in_scale = rmse(in_scale.ratings, in_scale.scores);
  result.srcc_all = spearman_with_failures(images);
  result.distinct_ratings =
      static_cast<std::int64_t>(std::set(all.ratings.begin(), all.ratings.end()).size());
  return result;
}

}  // namespace biqa
