// SPDX-License-Identifier: Apache-2.0
#include "evaluation/comparison.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "core/error.h"

namespace biqa {
namespace {

using RowKey = std::tuple<std::string, std::string, std::int64_t>;
RowKey key_of(const Prediction& p) {
  return {p.set, p.id, p.repeat.value_or(-1)};
}

/// A row that both have rated.
struct Pair {
  double a = 0, b = 0, score = 0;
};

/// The pairs of one set and condition, image by image.
struct Pairs {
  std::vector<Pair> rows;
  std::vector<std::vector<std::size_t>> images;
};

/// One side of the comparison.
class Side {
 public:
  Side(const std::vector<double>& ratings, const std::vector<double>& scores) : pairs_(ratings, scores) {
    for (std::size_t i = 0; i < ratings.size(); ++i) distances_.push_back(std::abs(ratings[i] - scores[i]));
  }
  /// plcc, srcc, rmse, mae of these rows
  std::array<double, 4> figures(std::span<const std::size_t> rows) {
    if (rows.empty()) return {kNoFigure, kNoFigure, kNoFigure, kNoFigure};
    drawn_.clear();
    for (const std::size_t row : rows) drawn_.push_back(distances_[row]);
    return {pairs_.pearson(rows), pairs_.spearman(rows),
            root_mean_square(drawn_, static_cast<double>(drawn_.size())), mean(drawn_)};
  }

 private:
  DrawnPairs pairs_;
  std::vector<double> distances_, drawn_;  ///< |rating - score|
};

void compare_pairs(const Pairs& pairs, const ReportOptions& options, ComparisonRow& row) {
  std::vector<double> a_ratings, b_ratings, scores;
  std::vector<std::size_t> all;
  for (const Pair& pair : pairs.rows) {
    all.push_back(all.size());
    a_ratings.push_back(pair.a);
    b_ratings.push_back(pair.b);
    scores.push_back(pair.score);
    // Halves, because the difference of two numbers near the limits of a double has none.
    const double a = std::abs(pair.a / 2 - pair.score / 2), b = std::abs(pair.b / 2 - pair.score / 2);
    ++(a < b ? row.closer_a : b < a ? row.closer_b : row.equal);
  }
  row.n = static_cast<std::int64_t>(pairs.rows.size());
  if (row.n > 0) row.sign_test_p = sign_test(row.closer_a, row.closer_b);
  Side a(a_ratings, scores), b(b_ratings, scores);
  const std::array<ComparedFigure*, 4> figures{&row.plcc, &row.srcc, &row.rmse, &row.mae};
  const auto of_a = a.figures(all), of_b = b.figures(all);
  std::array<std::vector<double>, 4> differences;
  const RandomStream stream = bootstrap_stream(options.seed, row.set);
  std::vector<std::size_t> images(pairs.images.size()), rows;
  for (std::size_t draw = 0; draw < options.draws; ++draw) {
    draw_rows(stream, draw, images);
    rows.clear();
    for (const std::size_t image : images)
      rows.insert(rows.end(), pairs.images[image].begin(), pairs.images[image].end());
    const auto drawn_a = a.figures(rows), drawn_b = b.figures(rows);
    for (std::size_t i = 0; i < figures.size(); ++i) differences[i].push_back(drawn_a[i] - drawn_b[i]);
  }
  for (std::size_t i = 0; i < figures.size(); ++i)
    *figures[i] = {of_a[i], of_b[i], of_a[i] - of_b[i], percentile_interval(std::move(differences[i]))};
}

Pairs pairs_of(const PredictionSet& set, const std::map<RowKey, const Prediction*>& other,
               bool from_caption) {
  Pairs pairs;
  for (const auto& image : set.images) {
    std::vector<std::size_t> rows;
    for (const std::size_t i : image) {
      const Prediction& a = *set.rows[i];
      const auto found = other.find(key_of(a));
      const Prediction* b = found == other.end() ? nullptr : found->second;
      if (b != nullptr && *b->score != *a.score) {
        fail(
            "cannot compare image '{}' of set {}: its scores are {} and {}; give two files about the same "
            "data",
            a.id, a.set, *a.score, *b->score);
      }
      const auto& a_rating = from_caption ? a.caption_rating : a.rating;
      if (b == nullptr || !a_rating || !(from_caption ? b->caption_rating : b->rating)) continue;
      rows.push_back(pairs.rows.size());
      pairs.rows.push_back({*a_rating, *(from_caption ? b->caption_rating : b->rating), *a.score});
    }
    if (!rows.empty()) pairs.images.push_back(std::move(rows));
  }
  return pairs;
}

}  // namespace

std::vector<ComparisonRow> compare_predictions(std::span<const Prediction> a, std::span<const Prediction> b,
                                               const ReportOptions& options) {
  std::map<RowKey, const Prediction*> other;
  for (const Prediction& p : b) {
    if (p.score) other[key_of(p)] = &p;
  }
  const std::vector<PredictionSet> b_sets = sets_of(b);
  std::vector<ComparisonRow> rows;
  for (const PredictionSet& set : sets_of(a)) {
    const auto same = std::find_if(b_sets.begin(), b_sets.end(), [&](const PredictionSet& candidate) {
      return candidate.set == set.set && candidate.decoding == set.decoding;
    });
    if (same == b_sets.end()) continue;
    for (const std::string& condition : options.conditions) {
      const auto has_caption = [](const Prediction* p) { return p->has_caption_rating; };
      if (condition == "caption" && (std::none_of(set.rows.begin(), set.rows.end(), has_caption) ||
                                     std::none_of(same->rows.begin(), same->rows.end(), has_caption)))
        continue;
      ComparisonRow row;
      row.set = set.set;
      row.condition = condition;
      row.decoding = set.decoding;
      const Pairs pairs = pairs_of(set, other, condition == "caption");
      const auto in_both = static_cast<std::size_t>(std::count_if(
          set.rows.begin(), set.rows.end(), [&](const Prediction* p) { return other.contains(key_of(*p)); }));
      const std::size_t rows_of_either = set.rows.size() + same->rows.size() - in_both;
      row.left_out = static_cast<std::int64_t>(rows_of_either - pairs.rows.size());
      compare_pairs(pairs, options, row);
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

}  // namespace biqa
