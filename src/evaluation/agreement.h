// SPDX-License-Identifier: Apache-2.0
// How well ratings agree with human scores. Training and biqa_eval use the same figures, also for predictions that
// others made.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

namespace biqa {

/// One image: its human score, and what the model answered.
struct RatedImage {
  double score = 0;
  std::optional<double> rating;  ///< nullopt: the answer had none
  bool out_of_scale = false;     ///< answer_out_of_scale() of the answer
};

/// Ratings and human scores of the same images.
struct ScoredRatings {
  std::vector<double> ratings, scores;

  void add(double rating, double score) {
    ratings.push_back(rating);
    scores.push_back(score);
  }
  std::size_t size() const { return ratings.size(); }
};

/// Figures of agreement; NaN: not defined. Images without rating are counted and take no part in the correlations.
struct Agreement {
  static constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

  std::int64_t n = 0, parse_failures = 0, out_of_scale = 0;
  // Over all ratings, also those out of scale.
  double plcc = kUndefined, srcc = kUndefined, krcc = kUndefined, rmse = kUndefined, mae = kUndefined;
  // Without the ratings out of scale.
  double plcc_in_scale = kUndefined, srcc_in_scale = kUndefined, rmse_in_scale = kUndefined;
  /// Spearman's correlation over all images: those without rating rank below all others, tied among themselves. Not
  /// defined if no image has a rating.
  double srcc_all = kUndefined;
  /// number of different ratings
  std::int64_t distinct_ratings = 0;
};
Agreement agreement_of(std::span<const RatedImage> images);

/// The images with a rating.
ScoredRatings rated_only(std::span<const RatedImage> images);

}  // namespace biqa
