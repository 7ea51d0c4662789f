// SPDX-License-Identifier: Apache-2.0
#include "evaluation/report.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "data/response.h"

namespace biqa {
namespace {

bool is_blank(std::string_view text) {
  return word_count(text) == 0;
}

double mean_or_none(const std::vector<double>& values) {
  return values.empty() ? kNoFigure : mean(values);
}

FitFigures fit_of(const ScoredRatings& rated, LogisticKind kind) {
  FitFigures fit;
  const Logistic curve = fit_logistic(rated.ratings, rated.scores, kind);
  if (!std::isfinite(curve.low) || !std::isfinite(curve.width)) return fit;
  std::vector<double> mapped;
  for (const double rating : rated.ratings) mapped.push_back(curve(rating));
  const double agreement = pearson(mapped, rated.scores);
  if (!std::isfinite(agreement)) return fit;  // a curve that is flat where the ratings are
  fit.plcc = agreement;
  fit.rmse = rmse(mapped, rated.scores);
  if (kind == LogisticKind::four)
    fit.parameters = {curve.low + curve.rise, curve.low, curve.centre, curve.width};
  else
    fit.parameters = {curve.rise, 1 / curve.width, curve.centre, curve.slope, curve.low + curve.rise / 2};
  return fit;
}

/// Figures of captions, reasonings and both ratings.
void describe_answers(const PredictionSet& set, ReportRow& row) {
  std::vector<double> caption_words, reasoning_words, leaks, contradictions, above;
  for (const Prediction* p : set.rows) {
    if (p->caption) {
      caption_words.push_back(static_cast<double>(word_count(*p->caption)));
      leaks.push_back(p->rating && leaks_rating(*p->caption, *p->rating) ? 1 : 0);
    }
    if (p->reasoning) reasoning_words.push_back(static_cast<double>(word_count(*p->reasoning)));
    if (p->rating && p->caption_rating) {
      contradictions.push_back(std::abs(*p->rating - *p->caption_rating));
      above.push_back(contradictions.back() > 0.5 ? 1 : 0);
    }
  }
  row.caption_words = mean_or_none(caption_words);
  row.reasoning_words = mean_or_none(reasoning_words);
  row.leak_rate = mean_or_none(leaks);
  row.contradiction_mean = mean_or_none(contradictions);
  row.contradiction_share = mean_or_none(above);
}

/// Spread over several samples of each image.
void describe_repeats(const PredictionSet& set, bool from_caption, ReportRow& row) {
  std::map<std::int64_t, std::vector<RatedImage>> repeats;
  std::vector<double> deviations;
  for (const auto& image : set.images) {
    std::vector<double> ratings;
    for (const std::size_t i : image) {
      const RatedImage rated = rated_image(*set.rows[i], from_caption);
      repeats[set.rows[i]->repeat.value_or(0)].push_back(rated);
      if (rated.rating) ratings.push_back(*rated.rating);
    }
    if (ratings.size() >= 2) deviations.push_back(standard_deviation(ratings));
  }
  row.repeats = static_cast<std::int64_t>(repeats.size());
  if (row.repeats < 2) return;
  row.instability = mean_or_none(deviations);
  std::vector<double> plcc, srcc;
  for (const auto& [number, images] : repeats) {
    const ScoredRatings rated = rated_only(images);
    plcc.push_back(pearson(rated.ratings, rated.scores));
    srcc.push_back(spearman(rated.ratings, rated.scores));
  }
  const auto range = [](const std::vector<double>& values) {
    if (!std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); }))
      return kNoInterval;
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    return Interval{*least, *most};
  };
  row.plcc_repeats = range(plcc);
  row.srcc_repeats = range(srcc);
}

std::optional<TextFigures> texts_of(const PredictionSet& set, const ReportOptions& options) {
  std::vector<TextPair> pairs;
  std::size_t images = 0;
  std::int64_t without_text = 0;
  bool any = false;
  for (const auto& image : set.images) {
    if (!has_human_text(*set.rows[image.front()])) continue;
    const std::size_t before = pairs.size();
    for (const std::size_t i : image) {
      const std::optional<std::string>& answer = set.rows[i]->text;
      if (!answer) {
        ++without_text;
        continue;
      }
      pairs.push_back({images, *answer, set.rows[image.front()]->human_text});
      any = any || !is_blank(*answer);
    }
    images += pairs.size() > before ? 1 : 0;
  }
  if (!any) return std::nullopt;
  TextFigures figures = text_figures(pairs, images, chance_stream(options.seed, set.set), options.meaning);
  figures.without_text = without_text;
  return figures;
}

/// The draws of one condition. Images are drawn with all their answers, because these depend on each other.
class ConditionDraws {
 public:
  ConditionDraws(const PredictionSet& set, bool from_caption)
      : pairs_({}, {}), pairs_of_image_(set.images.size()) {
    ScoredRatings rated;
    for (std::size_t image = 0; image < set.images.size(); ++image) {
      for (const std::size_t i : set.images[image]) {
        const RatedImage row = rated_image(*set.rows[i], from_caption);
        if (!row.rating) continue;
        pairs_of_image_[image].push_back(rated.size());
        rated.add(*row.rating, row.score);
      }
    }
    pairs_ = DrawnPairs(rated.ratings, rated.scores);
  }
  void draw(std::span<const std::size_t> images) {
    drawn_.clear();
    for (const std::size_t image : images) {
      drawn_.insert(drawn_.end(), pairs_of_image_[image].begin(), pairs_of_image_[image].end());
    }
    plcc.push_back(pairs_.pearson(drawn_));
    srcc.push_back(pairs_.spearman(drawn_));
  }

  std::vector<double> plcc, srcc;  ///< of each draw

 private:
  DrawnPairs pairs_;
  std::vector<std::vector<std::size_t>> pairs_of_image_;
  std::vector<std::size_t> drawn_;
};

std::vector<double> differences(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> result;
  result.reserve(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) result.push_back(a[i] - b[i]);
  return result;
}

/// Intervals of the rows, and of the gap between them if there are two. The conditions share the draws, so the gap is
/// that of paired draws.
void draw_intervals(const PredictionSet& set, const ReportOptions& options, std::span<ReportRow> rows,
                    std::vector<ReportGap>& gaps) {
  std::vector<ConditionDraws> draws;
  for (const ReportRow& row : rows) draws.emplace_back(set, row.condition == "caption");
  const RandomStream stream = bootstrap_stream(options.seed, set.set);
  std::vector<std::size_t> images(set.images.size());
  for (std::size_t draw = 0; draw < options.draws; ++draw) {
    draw_rows(stream, draw, images);
    for (ConditionDraws& condition : draws) condition.draw(images);
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].plcc_ci = percentile_interval(draws[i].plcc);
    rows[i].srcc_ci = percentile_interval(draws[i].srcc);
  }
  if (rows.size() != 2) return;
  ReportGap gap;
  gap.set = set.set;
  gap.decoding = set.decoding;
  gap.plcc_gap = rows[0].agreement.plcc - rows[1].agreement.plcc;
  gap.srcc_gap = rows[0].agreement.srcc - rows[1].agreement.srcc;
  gap.plcc_gap_ci = percentile_interval(differences(draws[0].plcc, draws[1].plcc));
  gap.srcc_gap_ci = percentile_interval(differences(draws[0].srcc, draws[1].srcc));
  gaps.push_back(gap);
}

std::string value_of(const Prediction& prediction, const std::string& field) {
  if (field == "type") return prediction.type;
  if (field == "level") return prediction.level;
  if (field == "reference") return prediction.reference;
  fail_usage("cannot group by '{}': choose type, level or reference", field);
}

/// Numbers in the order of their values, then texts.
struct NumbersFirst {
  static std::optional<double> number(const std::string& text) {
    double value = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (problem != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
      return std::nullopt;
    return value;
  }
  bool operator()(const std::string& a, const std::string& b) const {
    const auto x = number(a), y = number(b);
    if (x && y && *x != *y) return *x < *y;
    if (x.has_value() != y.has_value()) return x.has_value();
    return a < b;
  }
};

void add_groups(const PredictionSet& set, const ReportRow& row, const std::string& by, Report& report) {
  std::map<std::string, std::vector<RatedImage>, NumbersFirst> images;
  for (const Prediction* p : set.rows) {
    const std::string value = value_of(*p, by);
    if (!value.empty()) images[value].push_back(rated_image(*p, row.condition == "caption"));
  }
  std::vector<double> plcc, srcc;
  for (const auto& [value, members] : images) {
    const ScoredRatings rated = rated_only(members);
    ReportGroup group{row.set,
                      row.condition,
                      row.decoding,
                      by,
                      value,
                      static_cast<std::int64_t>(members.size()),
                      pearson(rated.ratings, rated.scores),
                      spearman(rated.ratings, rated.scores)};
    if (std::isfinite(group.plcc)) plcc.push_back(group.plcc);
    if (std::isfinite(group.srcc)) srcc.push_back(group.srcc);
    report.groups.push_back(std::move(group));
  }
  if (images.empty()) return;
  report.group_means.push_back({row.set, row.condition, row.decoding, by,
                                static_cast<std::int64_t>(srcc.size()), mean_or_none(plcc),
                                mean_or_none(srcc)});
}

ReportMean mean_over_sets(std::span<const ReportRow> rows, const std::string& condition,
                          const std::string& decoding) {
  ReportMean result;
  result.condition = condition;
  result.decoding = decoding;
  std::vector<const ReportRow*> chosen;
  for (const ReportRow& row : rows) {
    if (row.condition == condition && row.decoding == decoding) chosen.push_back(&row);
  }
  result.sets = static_cast<std::int64_t>(chosen.size());
  const auto average = [&](auto&& figure) {
    std::vector<double> values;
    values.reserve(chosen.size());
    for (const ReportRow* row : chosen) values.push_back(figure(*row));
    return mean_or_none(values);  // NaN if one is
  };
  const auto agreement = [&](double Agreement::*figure) {
    return average([&](const ReportRow& row) { return row.agreement.*figure; });
  };
  result.plcc = agreement(&Agreement::plcc);
  result.srcc = agreement(&Agreement::srcc);
  result.krcc = agreement(&Agreement::krcc);
  result.rmse = agreement(&Agreement::rmse);
  result.mae = agreement(&Agreement::mae);
  result.plcc_in_scale = agreement(&Agreement::plcc_in_scale);
  result.srcc_in_scale = agreement(&Agreement::srcc_in_scale);
  result.rmse_in_scale = agreement(&Agreement::rmse_in_scale);
  result.srcc_all = agreement(&Agreement::srcc_all);
  result.plcc_fit4 = average([](const ReportRow& row) { return row.fit4.plcc; });
  result.rmse_fit4 = average([](const ReportRow& row) { return row.fit4.rmse; });
  result.plcc_fit5 = average([](const ReportRow& row) { return row.fit5.plcc; });
  result.rmse_fit5 = average([](const ReportRow& row) { return row.fit5.rmse; });
  return result;
}

ReportRow row_of(const PredictionSet& set, const std::string& condition, const ReportOptions& options) {
  const bool from_caption = condition == "caption";
  ReportRow row;
  row.set = set.set;
  row.condition = condition;
  row.decoding = set.decoding;
  std::vector<RatedImage> images;
  for (const Prediction* p : set.rows) images.push_back(rated_image(*p, from_caption));
  row.agreement = agreement_of(images);
  const ScoredRatings rated = rated_only(images);
  row.fit4 = fit_of(rated, LogisticKind::four);
  row.fit5 = fit_of(rated, LogisticKind::five);
  describe_answers(set, row);
  describe_repeats(set, from_caption, row);
  if (!from_caption) row.texts = texts_of(set, options);
  return row;
}

}  // namespace

RatedImage rated_image(const Prediction& p, bool from_caption) {
  return from_caption ? RatedImage{*p.score, p.caption_rating, p.caption_out_of_scale}
                      : RatedImage{*p.score, p.rating, p.out_of_scale};
}

bool has_human_text(const Prediction& prediction) {
  return !is_blank(prediction.human_text);
}

RandomStream bootstrap_stream(std::uint64_t seed, const std::string& set) {
  return {hash_text("evaluation: bootstrap"), seed, hash_text(set)};
}

RandomStream chance_stream(std::uint64_t seed, const std::string& set) {
  return {hash_text("evaluation: chance level"), seed, hash_text(set)};
}

std::vector<PredictionSet> sets_of(std::span<const Prediction> predictions) {
  std::vector<PredictionSet> sets;
  std::map<std::pair<std::string, std::string>, std::size_t> set_of;
  std::vector<std::map<std::string, std::size_t>> image_of;  // by set
  for (const Prediction& p : predictions) {
    if (!p.score) continue;
    const std::string decoding = p.repeat ? "sampled" : "greedy";
    const auto [place, is_new] = set_of.try_emplace({p.set, decoding}, sets.size());
    if (is_new) {
      sets.push_back({p.set, decoding, {}, {}});
      image_of.emplace_back();
    }
    PredictionSet& set = sets[place->second];
    const auto [image, is_first] = image_of[place->second].try_emplace(p.id, set.images.size());
    if (is_first) set.images.emplace_back();
    set.images[image->second].push_back(set.rows.size());
    set.rows.push_back(&p);
  }
  return sets;
}

Report report_of(std::span<const Prediction> predictions, const ReportOptions& options) {
  Report report;
  for (const Prediction& p : predictions) {
    report.without_score += p.score ? 0 : 1;
    report.without_text += p.score && has_human_text(p) && !p.text ? 1 : 0;
  }
  for (const PredictionSet& set : sets_of(predictions)) {
    const bool has_caption = std::any_of(set.rows.begin(), set.rows.end(),
                                         [](const Prediction* p) { return p->has_caption_rating; });
    const std::size_t first = report.rows.size();
    for (const std::string& condition : options.conditions) {
      if (condition == "caption" && !has_caption) continue;
      report.rows.push_back(row_of(set, condition, options));
    }
    const std::span<ReportRow> rows = std::span(report.rows).subspan(first);
    draw_intervals(set, options, rows, report.gaps);
    for (const ReportRow& row : rows) {
      for (const std::string& field : options.by) add_groups(set, row, field, report);
    }
  }
  for (const std::string& condition : options.conditions) {
    for (const char* decoding : {"greedy", "sampled"}) {
      ReportMean mean = mean_over_sets(report.rows, condition, decoding);
      if (mean.sets > 0) report.means.push_back(std::move(mean));
    }
  }
  return report;
}

}  // namespace biqa
