// SPDX-License-Identifier: Apache-2.0
// The figures of biqa_eval, computed from predictions alone. So evaluating a model, and evaluating its file of
// predictions later, give the same document. docs/evaluation.md defines each figure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/statistics.h"
#include "evaluation/agreement.h"
#include "evaluation/predictions.h"
#include "evaluation/text_figures.h"

namespace biqa {

inline constexpr std::size_t kBootstrapDraws = 2000;

struct ReportOptions {
  std::vector<std::string> conditions{"image", "caption"};
  std::vector<std::string> by;  ///< type, level, reference
  /// key of the bootstrap's draws and of the chance level, together with the name of the set
  std::uint64_t seed = 0;
  std::size_t draws = kBootstrapDraws;
  MeaningTools meaning;
};

inline constexpr double kNoFigure = std::numeric_limits<double>::quiet_NaN();
inline constexpr Interval kNoInterval{kNoFigure, kNoFigure};

/// A logistic curve from rating to score, and the agreement of the fitted ratings.
struct FitFigures {
  double plcc = kNoFigure, rmse = kNoFigure;
  std::vector<double> parameters;  ///< b1, b2, … of docs/evaluation.md; empty without a curve
};

/// One set, condition and decoding.
struct ReportRow {
  std::string set, condition, decoding;
  Agreement agreement;
  FitFigures fit4, fit5;
  Interval plcc_ci = kNoInterval, srcc_ci = kNoInterval;
  // Of captions, reasonings and both ratings; the same for both conditions.
  double leak_rate = kNoFigure, caption_words = kNoFigure, reasoning_words = kNoFigure;
  double contradiction_mean = kNoFigure, contradiction_share = kNoFigure;
  std::int64_t repeats = 1;  ///< answers per image
  double instability = kNoFigure;
  Interval plcc_repeats = kNoInterval,
           srcc_repeats = kNoInterval;  ///< least and greatest figure of one repeat
  std::optional<TextFigures> texts;     ///< only for condition image, if people wrote texts
};

/// The images of a set that have the same value in a field of the manifest.
struct ReportGroup {
  std::string set, condition, decoding, by, value;
  std::int64_t n = 0;
  double plcc = kNoFigure, srcc = kNoFigure;
};
/// Means over such groups, each group with the same weight; only groups with a correlation count.
struct ReportGroupMean {
  std::string set, condition, decoding, by;
  std::int64_t groups = 0;
  double plcc = kNoFigure, srcc = kNoFigure;
};

/// Image minus caption.
struct ReportGap {
  std::string set, decoding;
  double plcc_gap = kNoFigure, srcc_gap = kNoFigure;
  Interval plcc_gap_ci = kNoInterval, srcc_gap_ci = kNoInterval;
};

/// Mean over the sets that were decoded alike, each set with the same weight. A figure that one set lacks has no mean.
struct ReportMean {
  std::string condition, decoding;
  std::int64_t sets = 0;
  double plcc = kNoFigure, srcc = kNoFigure, krcc = kNoFigure, rmse = kNoFigure, mae = kNoFigure,
         plcc_in_scale = kNoFigure, srcc_in_scale = kNoFigure, rmse_in_scale = kNoFigure,
         srcc_all = kNoFigure, plcc_fit4 = kNoFigure, rmse_fit4 = kNoFigure, plcc_fit5 = kNoFigure,
         rmse_fit5 = kNoFigure;
};

struct Report {
  std::vector<ReportRow> rows;
  std::vector<ReportGroup> groups;
  std::vector<ReportGroupMean> group_means;
  std::vector<ReportGap> gaps;
  std::vector<ReportMean> means;
  std::int64_t without_score = 0;  ///< predictions that were left out
  /// predictions with a score and a human text whose answer is unknown
  std::int64_t without_text = 0;
};

/// Sets are in the order of their first prediction. The condition `caption` is left out for a set none of whose
/// predictions has the column caption_rating.
Report report_of(std::span<const Prediction> predictions, const ReportOptions& options);

/// The rating of a prediction under a condition, as agreement_of() takes it. The prediction must have a score.
RatedImage rated_image(const Prediction& prediction, bool from_caption);

/// Whether people wrote about the image.
bool has_human_text(const Prediction& prediction);

/// The stream of the bootstrap's draws for a set.
RandomStream bootstrap_stream(std::uint64_t seed, const std::string& set);
/// The stream that orders the images of a set, to pair each with another image for the chance level.
RandomStream chance_stream(std::uint64_t seed, const std::string& set);

/// The predictions of one set and decoding, image by image.
struct PredictionSet {
  std::string set, decoding;
  std::vector<const Prediction*> rows;           ///< in the order of the predictions
  std::vector<std::vector<std::size_t>> images;  ///< the rows of each image, in order of its first row
};
/// Groups predictions that have a score.
std::vector<PredictionSet> sets_of(std::span<const Prediction> predictions);

}  // namespace biqa
