// SPDX-License-Identifier: Apache-2.0
// Agreement of predictions with people, and single answers with their pictures.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"
#include "data/manifest.h"
#include "data/response.h"
#include "evaluation/comparison.h"
#include "report/answers.h"
#include "report/html.h"
#include "report/sections.h"
#include "report/thumbnails.h"
#include "reward/table.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

/// Points of a scatter chart beyond which only a part of them is drawn.
constexpr std::size_t kMostPoints = 4000;
/// Ratings that far outside the scale are not drawn.
constexpr double kBeyondScale = 1;

/// The points of a chart, and what is said below it.
struct Cloud {
  std::vector<ChartPoint> points;
  std::size_t rated = 0, beyond = 0, every = 1;
};
Cloud cloud_of(const PredictionSet& set, bool from_caption) {
  Cloud cloud;
  std::vector<ChartPoint> all;
  for (const Prediction* p : set.rows) {
    const RatedImage rated = rated_image(*p, from_caption);
    if (!rated.rating) continue;
    ++cloud.rated;
    if (*rated.rating < kLeastRating - kBeyondScale || *rated.rating > kMostRating + kBeyondScale)
      ++cloud.beyond;
    else
      all.push_back({*rated.rating, rated.score, "", p->id});
  }
  cloud.every = (all.size() + kMostPoints - 1) / kMostPoints;
  for (std::size_t i = 0; i < all.size(); i += cloud.every) cloud.points.push_back(std::move(all[i]));
  return cloud;
}

std::vector<LinePoint> fitted_curve(const FitFigures& fit) {
  std::vector<LinePoint> curve;
  if (fit.parameters.size() != 4) return curve;
  const std::vector<double>& b = fit.parameters;
  constexpr int kSegments = 120;
  const double low = kLeastRating - kBeyondScale, high = kMostRating + kBeyondScale;
  for (int i = 0; i <= kSegments; ++i) {
    const double x = low + (high - low) * i / kSegments;
    curve.push_back({x, b[1] + (b[0] - b[1]) / (1 + std::exp(-(x - b[2]) / std::abs(b[3])))});
  }
  return curve;
}

std::string scatter(const PredictionFile& file, const PredictionSet& set, const ReportRow& row) {
  const bool from_caption = row.condition == "caption";
  const Cloud cloud = cloud_of(set, from_caption);
  PointChart chart;
  chart.title = fmt::format("{}, {}, {}", file.name, row.set, row.decoding);
  chart.unit = from_caption ? "rating from the caption alone" : "rating from the picture";
  chart.x_title = "rating";
  chart.y_title = "human score";
  chart.cloud = chart.diagonal = true;
  chart.least = kLeastRating - kBeyondScale;
  chart.most = kMostRating + kBeyondScale;
  chart.groups.push_back({"answers", from_caption ? std::size_t{1} : std::size_t{0}, cloud.points});
  chart.curve = fitted_curve(row.fit4);
  chart.curve_colour = 5;
  std::vector<std::string> notes{
      fmt::format("{} of {} answers have a rating. PLCC {}, SRCC {}; after the fit PLCC {}, RMSE {}.",
                  cloud.rated, row.agreement.n, fixed_text(row.agreement.plcc),
                  fixed_text(row.agreement.srcc), fixed_text(row.fit4.plcc), fixed_text(row.fit4.rmse))};
  if (cloud.beyond > 0)
    notes.push_back(fmt::format("Far outside the scale and not drawn: {}.",
                                counted(static_cast<std::int64_t>(cloud.beyond), "rating", "ratings")));
  if (cloud.every > 1)
    notes.push_back(fmt::format("One of every {} points is drawn; the figures use all.", cloud.every));
  return "<div>" + point_chart(chart) + note_list(notes) + "</div>\n";
}

const ReportRow* row_for(const Report& report, const PredictionSet& set, const std::string& condition) {
  const auto row = std::find_if(report.rows.begin(), report.rows.end(), [&](const ReportRow& r) {
    return r.set == set.set && r.decoding == set.decoding && r.condition == condition;
  });
  return row != report.rows.end() ? &*row : nullptr;
}

std::string with_chance(const ChanceFigure& figure) {
  if (!std::isfinite(figure.excess())) return kNoValue;
  return fmt::format("{} ({}, {:+.3f})", fixed_text(figure.value), fixed_text(figure.chance),
                     figure.excess());
}

/// An image has several answers if they were sampled repeatedly.
std::size_t images_of(const ReportRow& row, const std::vector<PredictionSet>& sets) {
  const auto set = std::find_if(sets.begin(), sets.end(), [&](const PredictionSet& candidate) {
    return candidate.set == row.set && candidate.decoding == row.decoding;
  });
  return set != sets.end() ? set->images.size() : 0;
}

std::string figures_table(const RunReportInputs& inputs) {
  HtmlTable table("Agreement with people, with 95 % intervals in brackets",
                  {{"predictions", false},
                   {"set", false},
                   {"condition", false},
                   {"decoding", false},
                   {"images"},
                   {"answers"},
                   {"without rating"},
                   {"out of scale"},
                   {"PLCC"},
                   {"SRCC"},
                   {"KRCC"},
                   {"RMSE"},
                   {"PLCC, fitted"},
                   {"RMSE, fitted"},
                   {"ROUGE-1 recall (chance, excess)"}});
  for (const PredictionFile& file : inputs.predictions) {
    const std::vector<PredictionSet> sets = sets_of(file.predictions);
    for (const ReportRow& row : file.report.rows) {
      const Agreement& a = row.agreement;
      table.add({file.name, row.set, row.condition, row.decoding, std::to_string(images_of(row, sets)),
                 std::to_string(a.n), std::to_string(a.parse_failures), std::to_string(a.out_of_scale),
                 interval_text(a.plcc, row.plcc_ci.low, row.plcc_ci.high),
                 interval_text(a.srcc, row.srcc_ci.low, row.srcc_ci.high), fixed_text(a.krcc),
                 fixed_text(a.rmse), fixed_text(row.fit4.plcc), fixed_text(row.fit4.rmse),
                 row.texts ? with_chance(row.texts->rouge1_r) : kNoValue});
    }
  }
  return table.html();
}

/// Whether tables must tell greedy and sampled answers apart.
bool has_several_decodings(const RunReportInputs& inputs) {
  std::set<std::string> decodings;
  for (const PredictionFile& file : inputs.predictions) {
    for (const ReportRow& row : file.report.rows) decodings.insert(row.decoding);
  }
  return decodings.size() > 1;
}

/// A table whose column `decoding`, with this number, is left out if there is only one.
class DecodingTable {
 public:
  DecodingTable(const std::string& caption, std::vector<HtmlTable::Column> columns, std::size_t at,
                bool shown)
      : at_(static_cast<std::ptrdiff_t>(at)), shown_(shown), table_(caption, kept(std::move(columns))) {}
  void add(std::vector<std::string> cells) { table_.add(kept(std::move(cells))); }
  std::string html() const { return table_.empty() ? "" : table_.html(); }

 private:
  template <typename T>
  std::vector<T> kept(std::vector<T> parts) const {
    if (!shown_) parts.erase(parts.begin() + at_);
    return parts;
  }
  std::ptrdiff_t at_;
  bool shown_;
  HtmlTable table_;
};

std::string gaps_table(const RunReportInputs& inputs) {
  DecodingTable table("Ratings from the picture minus ratings from the caption alone",
                      {{"predictions", false}, {"set", false}, {"decoding", false}, {"PLCC"}, {"SRCC"}}, 2,
                      has_several_decodings(inputs));
  for (const PredictionFile& file : inputs.predictions) {
    for (const ReportGap& gap : file.report.gaps)
      table.add({file.name, gap.set, gap.decoding,
                 interval_text(gap.plcc_gap, gap.plcc_gap_ci.low, gap.plcc_gap_ci.high),
                 interval_text(gap.srcc_gap, gap.srcc_gap_ci.low, gap.srcc_gap_ci.high)});
  }
  return table.html();
}

/// The first file against each other one.
std::string comparison_table(const RunReportInputs& inputs) {
  DecodingTable table(
      "Differences of two files on the rows that both have, with 95 % intervals of paired draws",
      {{"files", false},
       {"set", false},
       {"condition", false},
       {"decoding", false},
       {"answers"},
       {"PLCC"},
       {"SRCC"},
       {"RMSE"},
       {"sign test, p"}},
      3, has_several_decodings(inputs));
  std::vector<std::string> notes;
  for (std::size_t i = 1; i < inputs.predictions.size(); ++i) {
    const PredictionFile &a = inputs.predictions[i], &b = inputs.predictions.front();
    const std::string files = fmt::format("{} minus {}", a.name, b.name);
    std::vector<ComparisonRow> rows;
    try {
      rows = compare_predictions(a.predictions, b.predictions, inputs.options.evaluation);
      if (rows.empty()) notes.push_back(files + ": not compared: no set in common with the same decoding.");
    } catch (const Error& error) {  // the files are about different data
      notes.push_back(fmt::format("{}: not compared: {}", files, error.what()));
    }
    for (const ComparisonRow& row : rows) {
      const auto difference = [](const ComparedFigure& f) {
        return interval_text(f.difference, f.difference_ci.low, f.difference_ci.high);
      };
      table.add({files, row.set, row.condition, row.decoding, std::to_string(row.n), difference(row.plcc),
                 difference(row.srcc), difference(row.rmse),
                 row.sign_test_p < 0.001 ? "< 0.001" : fixed_text(row.sign_test_p)});
    }
  }
  return table.html() + note_list(notes);
}

// ------------------------------------------------------------------------------------------------ single answers

/// Finds the pictures of a run by the ids of its training manifest.
class RunPictures {
 public:
  explicit RunPictures(const RunRecord& run) {
    const std::string manifest = run.setting("data.train");
    if (manifest.empty()) {
      problem_ = "the run does not say where its training manifest is";
      return;
    }
    try {
      std::vector<BadRow> bad;
      for (const Sample& sample : read_pictures(manifest, bad)) files_.emplace(sample.id, sample.image);
    } catch (const Error& error) {
      problem_ = error.what();
    }
  }
  const std::string& problem() const { return problem_; }
  /// The picture or its placeholder, which is counted.
  std::string show(const std::string& id, std::int64_t& missing) const {
    const auto found = files_.find(id);
    if (found != files_.end()) {
      try {
        return embedded_picture(found->second, "Picture " + id);
      } catch (const Error&) {
        // It was moved, deleted or damaged since the run.
      }
    }
    ++missing;
    return missing_picture(found != files_.end() ? "the picture cannot be read"
                                                 : "the picture was not found");
  }

 private:
  std::map<std::string, fs::path> files_;
  std::string problem_;
};

std::string rewards_text(const RunRecord& run, const SampleRecord& sample) {
  std::vector<std::string> parts;
  for (const Reward& reward : rewards()) {
    const std::string name(reward.name);
    const auto value = sample.rewards.find(name);
    if (value == sample.rewards.end()) continue;
    const std::string weight = run.setting("rewards." + name);
    parts.push_back(fmt::format("{} {}{}", name, fixed_text(value->second, 2),
                                weight.empty() || weight == "1" ? "" : fmt::format(" (weight {})", weight)));
  }
  return parts.empty()
             ? ""
             : fmt::format("{}; advantage {}", fmt::join(parts, ", "), fixed_text(sample.advantage, 2));
}

std::string sample_card(const RunRecord& run, const RunPictures& pictures, const SampleRecord& sample,
                        std::int64_t& missing) {
  AnswerCard card;
  card.title = sample.id;
  card.subtitle = fmt::format("step {}, answer {} of its group", sample.step, sample.member + 1);
  card.picture = pictures.show(sample.id, missing);
  card.score = sample.score;
  card.rating = sample.rating;
  card.caption_rating = sample.stage2_rating;
  if (!sample.rating) card.flags.emplace_back("no rating");
  if (out_of_scale(sample.rating)) card.flags.emplace_back("rating out of scale");
  card.texts = {{"Caption", sample.caption}, {"Reasoning", sample.reasoning}};
  if (sample.caption.empty() && sample.reasoning.empty())
    card.texts = {{"Answer", sample.text.empty() ? "(empty)" : sample.text}};
  card.texts.emplace_back("Answer of the second stage", sample.stage2_text);
  card.texts.emplace_back("Rewards", rewards_text(run, sample));
  return answer_card(card);
}

std::string cards_of(const RunRecord& run, const RunPictures& pictures,
                     const std::vector<SampleRecord>& samples, std::int64_t& missing) {
  std::string html = "<div class=\"cards\">\n";
  for (const SampleRecord& sample : samples) html += sample_card(run, pictures, sample, missing);
  return html + "</div>\n";
}

std::string answers_of_run(const RunRecord& run, std::size_t count, std::int64_t& missing) {
  const fs::path file = run.folder / "samples.jsonl";
  std::error_code problem;
  if (!fs::exists(file, problem)) return note_list({fmt::format("{} has no samples.jsonl.", run.name)});
  const ChosenSamples chosen = choose_samples(file, count);
  if (chosen.compared == 0) return note_list({fmt::format("{} has recorded no answers yet.", run.name)});
  const RunPictures pictures(run);
  std::string html = note_list(
      {fmt::format("Chosen from {} of {}, step{}.", counted(chosen.compared, "answer", "answers"), run.name,
                   chosen.first_step == chosen.last_step
                       ? fmt::format(" {}", chosen.last_step)
                       : fmt::format("s {} to {}", chosen.first_step, chosen.last_step))});
  if (!pictures.problem().empty())
    html += note_list({fmt::format("The pictures were not found: {}.", pictures.problem())});
  html += "<h4>Closest to the human score</h4>\n" + cards_of(run, pictures, chosen.good, missing);
  return html + "<h4>Farthest from the human score</h4>\n" + cards_of(run, pictures, chosen.bad, missing);
}

}  // namespace

std::string agreement_section(const RunReportInputs& inputs) {
  if (inputs.predictions.empty()) {
    return paragraph(
        "No predictions were given, so there are no intervals and no scatter charts. biqa_eval --predictions "
        "FILE "
        "writes them; biqa_report --predictions FILE shows them.");
  }
  std::vector<std::string> warnings;
  for (const PredictionFile& file : inputs.predictions) {
    if (!file.warning.empty()) warnings.push_back(fmt::format("Warning: {}.", file.warning));
  }
  std::string html =
      note_list(warnings) + figures_table(inputs) + gaps_table(inputs) + comparison_table(inputs);
  html += paragraph(
      fmt::format(
          "Intervals: bootstrap over images, {} draws. Fitted: after the four-parameter logistic curve from "
          "rating to score (docs/evaluation.md defines each figure).",
          inputs.options.evaluation.draws),
      "caption");
  html += "<h3>Rating against human score</h3>\n" +
          paragraph("Each point is an answer. Solid: the fitted curve. Dashed: equal rating and score.",
                    "caption") +
          "<div class=\"charts wide\">\n";
  for (const PredictionFile& file : inputs.predictions) {
    for (const PredictionSet& set : sets_of(file.predictions)) {
      for (const char* condition : {"image", "caption"}) {
        const ReportRow* row = row_for(file.report, set, condition);
        if (row != nullptr) html += scatter(file, set, *row);
      }
    }
  }
  return html + "</div>\n";
}

std::string answers_section(const RunReportInputs& inputs, Configurations configurations,
                            std::int64_t& missing_pictures) {
  std::string html = paragraph(
      "Answers that were sampled in the last tenth of the training steps. They are ordered by |rating − "
      "human score| + "
      "|rating from the caption − human score|; a missing rating counts as 4. Each list has a picture at "
      "most once.",
      "caption");
  html += answer_legend(true);
  for (const Configuration& configuration : configurations) {
    const RunRecord& run = *configuration.runs.front();
    if (configurations.size() > 1) html += fmt::format("<h3>{}</h3>\n", escaped_html(configuration.name));
    html += answers_of_run(run, inputs.options.samples, missing_pictures);
  }
  if (missing_pictures > 0)
    html +=
        note_list({fmt::format("{} could not be shown.", counted(missing_pictures, "picture", "pictures"))});
  return html;
}

}  // namespace biqa
