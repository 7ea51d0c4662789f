// SPDX-License-Identifier: Apache-2.0
// The whole pages: what they show, that they show nothing else, and that they need nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <regex>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/statistics.h"
#include "report/answers.h"
#include "report/fixture.h"
#include "report/gallery.h"
#include "report/html.h"
#include "report/page_reader.h"
#include "report/run_report.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::example_sample;
using testing::expect_self_contained;
using testing::expect_well_formed;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::table_rows;
using testing::write_run;

const std::string kPredictions = BIQA_SOURCE_DIR "/tests/fixtures/evaluation/predictions.jsonl";

RunReportOptions quick() {
  RunReportOptions options;
  options.evaluation.draws = 50;
  return options;
}

RunReportPage page_of(const std::vector<fs::path>& runs, const std::vector<fs::path>& predictions = {},
                      const RunReportOptions& options = quick()) {
  RunReportPage page = run_report_page(read_report_inputs(runs, predictions, options), "biqa test");
  expect_well_formed(page.html);
  expect_self_contained(page.html);
  return page;
}

const std::string kFigures = "Figures of the evaluations before training and after it";

TEST(RunReport, TheTableHasTheFiguresOfTheMetrics) {
  const TemporaryFolder folder;
  const std::string html = page_of({write_run(folder, {"a"})}).html;
  const auto rows = table_rows(html, kFigures);
  ASSERT_EQ(rows.size(), 3U);
  // Set, condition, decoding, configuration, images; then PLCC, SRCC, RMSE, ROUGE and answers without rating.
  EXPECT_THAT(rows.at(1), ElementsAre("test", "image", "greedy", "a", "20", "0.250", "0.625", "0.188",
                                      "0.562", "1.500", "1.500", "0.375", "0.375", "3", "1"));
  EXPECT_THAT(rows.at(2), ElementsAre("test", "caption", "greedy", "a", "20", "0.125", "0.500", "0.062",
                                      "0.438", "1.500", "1.500", "–", "–", "3", "1"));
  EXPECT_THAT(table_rows(html, "Total reward"), Contains(ElementsAre("3", "0.3", "0.5")));
}

TEST(RunReport, SeedsAreOneRowWithTheirRange) {
  const TemporaryFolder folder;
  const std::string html =
      page_of({write_run(folder, {"a", 0}), write_run(folder, {"b", 1, 0.001, 4, 0.25})}).html;
  const auto rows = table_rows(html, kFigures);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows.at(1).at(3), "a (2 seeds)");
  EXPECT_EQ(rows.at(1).at(6), "0.750 [0.625, 0.875]");
  EXPECT_THAT(html, HasSubstr("class=\"band c0\""));
  EXPECT_THAT(html, Not(HasSubstr("Pareto front")));
}

TEST(RunReport, ConfigurationsHaveATradeOffAndTheirDifferences) {
  const TemporaryFolder folder;
  // The second has better ratings and worse texts; the third is worse in both.
  const std::string html =
      page_of({write_run(folder, {"first"}), write_run(folder, {"second", 0, 0.002, 4, 0.25}),
               write_run(folder, {"third", 0, 0.003, 4, -0.125})})
          .html;
  EXPECT_THAT(html, HasSubstr("Pareto front"));
  EXPECT_THAT(html, HasSubstr("second (on the front)"));
  EXPECT_THAT(table_rows(html, "Settings that differ"),
              ElementsAre(ElementsAre("setting", "first", "second", "third"),
                          ElementsAre("optimizer.lr", "0.001", "0.002", "0.003")));
}

TEST(RunReport, TextsOfAModelAreText) {
  const TemporaryFolder folder;
  const fs::path root = write_run(folder, {"a"});
  SampleRecord sample = example_sample(4, "p0", 1, 3.0);
  sample.caption = "<script>alert(1)</script><img src=\"http://example.org/x\" onerror=\"alert(2)\">";
  sample.reasoning = "</dd></article><style>*{display:none}</style>\xE2\x80\xAE";
  folder.write("a/samples.jsonl", to_json_line(sample) + "\n");
  const std::string html = page_of({root}).html;
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=&quot;http://example.org/x"));
  EXPECT_THAT(html, HasSubstr("&lt;/dd&gt;&lt;/article&gt;"));
}

TEST(RunReport, AMissingPictureIsAPlaceholderAndCounted) {
  const TemporaryFolder folder;
  const RunReportPage page = page_of({write_run(folder, {"a"})});
  EXPECT_EQ(page.missing_pictures, 1);
  EXPECT_THAT(page.html, HasSubstr("class=\"missing\""));
  EXPECT_THAT(page.html, HasSubstr("1 picture could not be shown."));
  EXPECT_THAT(page.html, HasSubstr("width=\"352\" height=\"176\""));
  fs::remove(folder.path() / "train.jsonl");
  EXPECT_EQ(page_of({folder.path() / "a"}).missing_pictures, 2);
}

TEST(RunReport, AnAnswerShowsWhatEachRewardSaid) {
  const TemporaryFolder folder;
  const std::string html = page_of({write_run(folder, {"a"})}).html;
  EXPECT_THAT(
      html,
      HasSubstr(
          "prediction 0.75, consistency 0.50, reasoning 0.25 (weight 0.5), format 0.50; advantage 1.25"));
  EXPECT_THAT(html, HasSubstr("&lt;rating&gt;3.00&lt;/rating&gt;"));
}

TEST(RunReport, PredictionsGiveIntervalsAndScatterCharts) {
  const TemporaryFolder folder;
  const auto run = write_run(folder, {"a"});
  const RunReportInputs inputs =
      read_report_inputs(std::vector<fs::path>{run}, std::vector<fs::path>{kPredictions}, quick());
  const std::string html = run_report_page(inputs, "").html;
  expect_self_contained(html);
  expect_well_formed(html);
  const auto rows = table_rows(html, "Agreement with people, with 95 % intervals in brackets");
  const Report& report = inputs.predictions.at(0).report;
  ASSERT_EQ(rows.size(), report.rows.size() + 1);
  for (std::size_t i = 0; i < report.rows.size(); ++i) {
    const ReportRow& row = report.rows[i];
    EXPECT_EQ(rows.at(i + 1).at(5), std::to_string(row.agreement.n));
    EXPECT_EQ(rows.at(i + 1).at(8), interval_text(row.agreement.plcc, row.plcc_ci.low, row.plcc_ci.high));
    EXPECT_EQ(rows.at(i + 1).at(12), fixed_text(row.fit4.plcc));
  }
  EXPECT_THAT(html, HasSubstr("class=\"cloud c0\""));
  EXPECT_THAT(html, HasSubstr("class=\"cloud c1\""));
}

TEST(RunReport, PredictionsInTheRunFolderAreUsed) {
  const TemporaryFolder folder;
  const auto run = write_run(folder, {"a"});
  folder.write("a/predictions.jsonl",
               "{\"id\":\"x\",\"score\":2,\"rating\":2.5}\n{\"id\":\"y\",\"score\":4,\"rating\":3}\n");
  const auto rows = table_rows(page_of({run}).html, "Agreement with people, with 95 % intervals in brackets");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows.at(1).at(0), "a");
  EXPECT_EQ(rows.at(1).at(11), "0.791");  // RMSE: sqrt((0.5² + 1²) / 2)
}

const std::string kAgreement = "Agreement with people, with 95 % intervals in brackets";
const std::string kComparison =
    "Differences of two files on the rows that both have, with 95 % intervals of paired draws";
const std::string kGaps = "Ratings from the picture minus ratings from the caption alone";

/// Answers about six images with scores 1, 1.5, …; `error`: of every other rating. `set`: with a comma, or empty.
std::string answers(double error, const std::string& set, const std::vector<std::string>& repeats) {
  std::string lines;
  for (int i = 0; i < 6; ++i) {
    for (const std::string& repeat : repeats) {
      const double score = 1 + i / 2.0, rating = score + (i % 2 == 0 ? error : 0);
      lines += fmt::format(R"({{"id": "{}", {} "score": {}, "rating": {}, "caption_rating": {}{}}})", i, set,
                           score, rating, rating, repeat.empty() ? "" : ", \"repeat\": " + repeat) +
               "\n";
    }
  }
  return lines;
}

// A minus B, and not the other way round: the second file is better than the first.
TEST(RunReport, ADifferenceIsTheNamedFileMinusTheFirst) {
  const TemporaryFolder folder;
  const auto run = write_run(folder, {"a"});
  // Rows without `set` belong to the same set in all files, whatever these are called.
  const std::vector<fs::path> files{folder.write("worse.jsonl", answers(2, "", {""})),
                                    folder.write("better.jsonl", answers(.5, "", {""}))};
  const auto rows = table_rows(page_of({run}, files).html, kComparison);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_THAT(rows.at(0),
              ElementsAre("files", "set", "condition", "answers", "PLCC", "SRCC", "RMSE", "sign test, p"));
  EXPECT_EQ(rows.at(1).at(0), "better minus worse");
  EXPECT_EQ(rows.at(1).at(1), "all");
  EXPECT_EQ(rows.at(1).at(3), "6");
  std::vector<double> scores, worse, better;
  for (int i = 0; i < 6; ++i) {
    scores.push_back(1 + i / 2.0);
    worse.push_back(scores.back() + (i % 2 == 0 ? 2 : 0));
    better.push_back(scores.back() + (i % 2 == 0 ? .5 : 0));
  }
  const std::vector<double> expected{pearson(better, scores) - pearson(worse, scores),
                                     spearman(better, scores) - spearman(worse, scores),
                                     (.5 - 2) / std::sqrt(2)};
  ASSERT_NE(fixed_text(expected[0]), fixed_text(expected[1]));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::string& cell = rows.at(1).at(4 + i);
    EXPECT_THAT(cell, ::testing::StartsWith(fixed_text(expected[i]) + " [")) << i;
    double low = 0, high = 0;
    const std::string ascii = std::regex_replace(cell, std::regex("−"), "-");
    ASSERT_EQ(std::sscanf(ascii.c_str() + ascii.find('['), "[%lf, %lf]", &low, &high), 2) << cell;
    EXPECT_LE(low, expected[i] + .0005) << cell;
    EXPECT_GE(high, expected[i] - .0005) << cell;
  }
  EXPECT_GT(expected[0], 0);
}

TEST(RunReport, FilesAboutOtherDataAreNamed) {
  const TemporaryFolder folder;
  const auto run = write_run(folder, {"a"});
  const std::vector<fs::path> files{folder.write("x.jsonl", answers(1, R"("set": "x",)", {""})),
                                    folder.write("y.jsonl", answers(1, R"("set": "y",)", {""}))};
  EXPECT_THAT(page_of({run}, files).html,
              HasSubstr("y minus x: not compared: no set in common with the same decoding."));
}

// Images are not answers, and greedy rows are not sampled ones.
TEST(RunReport, SeveralDecodingsAndRepeatsAreToldApart) {
  const TemporaryFolder folder;
  const auto run = write_run(folder, {"a"});
  const std::vector<std::string> mixed{"", "0", "1", "2"};
  const std::vector<fs::path> files{folder.write("x.jsonl", answers(1, "", mixed)),
                                    folder.write("y.jsonl", answers(.5, "", mixed))};
  const std::string html = page_of({run}, files).html;
  const auto figures = table_rows(html, kAgreement);
  ASSERT_EQ(figures.size(), 9U);
  EXPECT_THAT(std::vector(figures.at(0).begin() + 4, figures.at(0).begin() + 6),
              ElementsAre("images", "answers"));
  EXPECT_THAT(std::vector(figures.at(1).begin(), figures.at(1).begin() + 6),
              ElementsAre("x", "all", "image", "greedy", "6", "6"));
  EXPECT_THAT(std::vector(figures.at(3).begin(), figures.at(3).begin() + 6),
              ElementsAre("x", "all", "image", "sampled", "6", "18"));
  const auto gaps = table_rows(html, kGaps);
  ASSERT_EQ(gaps.size(), 5U);
  EXPECT_EQ(gaps.at(0).at(2), "decoding");
  EXPECT_EQ(gaps.at(1).at(2), "greedy");
  EXPECT_EQ(gaps.at(2).at(2), "sampled");
  const auto compared = table_rows(html, kComparison);
  ASSERT_EQ(compared.size(), 5U);
  EXPECT_THAT(std::vector(compared.at(3).begin(), compared.at(3).begin() + 5),
              ElementsAre("y minus x", "all", "image", "sampled", "18"));
}

/// Every figure of texts says whether its chance level is there.
void expect_chance_levels(const std::string& html) {
  const std::string name = "ROUGE-1 recall";
  std::size_t found = 0;
  for (std::size_t at = html.find(name); at != std::string::npos; at = html.find(name, at + 1), ++found) {
    const std::string rest = html.substr(at + name.size(), 40);
    const bool told = rest.starts_with(" (without chance level)") ||
                      rest.starts_with(" above chance level") || rest.starts_with(" (chance, excess)") ||
                      rest.starts_with(": share of the human text");
    EXPECT_TRUE(told) << name << rest;
  }
  EXPECT_GT(found, 5U);
}

TEST(RunReport, TextsWithoutChanceLevelSaySo) {
  const TemporaryFolder folder;
  const std::string html =
      page_of({write_run(folder, {"first"}), write_run(folder, {"second", 0, 0.002, 4, 0.25})}).html;
  expect_chance_levels(html);
  EXPECT_THAT(html, HasSubstr("<h3>ROUGE-1 recall (without chance level)</h3>"));
  EXPECT_THAT(html, HasSubstr("PLCC from the picture against ROUGE-1 recall (without chance level)"));
  EXPECT_THAT(html, Not(HasSubstr("above chance level")));
}

// Predictions in the folders of all runs give tile and Pareto chart the excess over the chance level.
TEST(RunReport, PredictionsOfTheRunsGiveTheChanceLevel) {
  const TemporaryFolder folder;
  const std::vector<fs::path> runs{write_run(folder, {"first"}),
                                   write_run(folder, {"second", 0, 0.002, 4, 0.25})};
  const auto row = [](int id, const std::string& text, const std::string& human_text) {
    return fmt::format(
               R"({{"id": "{}", "set": "test", "score": {}, "rating": 2, "text": "{}", "human_text": "{}"}})",
               id, id, text, human_text) +
           "\n";
  };
  // Recall 1 with the own text, and ½ with the other one; then the same text for both images, without any excess.
  folder.write("first/predictions.jsonl",
               row(1, "sharp boat", "sharp boat") + row(2, "sharp dog", "sharp dog"));
  EXPECT_THAT(page_of(runs).html, Not(HasSubstr("above chance level")));
  folder.write("second/predictions.jsonl", row(1, "sharp", "sharp boat") + row(2, "sharp", "sharp dog"));
  const std::string html = page_of(runs).html;
  expect_chance_levels(html);
  EXPECT_THAT(html, HasSubstr("<h3>ROUGE-1 recall above chance level</h3><p>first<b><i>1.000 − 0.500 =</i> "
                              "0.500</b></p><p>second<b><i>0.500 − 0.500 =</i> 0.000</b></p>"));
  EXPECT_THAT(html, Not(HasSubstr("<h3>ROUGE-1 recall (without chance level)</h3>")));
  EXPECT_THAT(table_rows(html, "PLCC from the picture against ROUGE-1 recall above chance level"),
              ElementsAre(ElementsAre("name", "ROUGE-1 recall above chance level", "PLCC from the picture"),
                          ElementsAre("first (on the front)", "0.5", "0.625"),
                          ElementsAre("second (on the front)", "0", "0.875")));
  EXPECT_EQ(table_rows(html, kAgreement).at(1).back(), "1.000 (0.500, +0.500)");
}

TEST(RunReport, FiguresOfOtherNumbersOfImagesAreNamed) {
  const TemporaryFolder folder;
  const std::vector<fs::path> runs{write_run(folder, {"first"}), write_run(folder, {"second", 0, 0.002})};
  const std::string note =
      "The figures of set test come from different numbers of images, so they cannot be compared: ";
  EXPECT_THAT(page_of(runs).html, Not(HasSubstr(note)));
  EvalMetrics eval = testing::example_evaluation({}, 4, "image");
  eval.n = 10;
  folder.write("second/metrics.jsonl", to_json_line(eval) + "\n");
  EXPECT_THAT(page_of(runs).html, HasSubstr(note + "first 20, second 10."));
}

TEST(RunReport, AnEmptyRunIsShownAsSuch) {
  const TemporaryFolder folder;
  write_run(folder, {"a"});
  for (const char* name : {"a/metrics.jsonl", "a/samples.jsonl"}) folder.write(name, "");
  fs::remove(folder.path() / "a/adapter.h5");
  const std::string html = page_of({folder.path() / "a"}).html;
  EXPECT_THAT(html, HasSubstr("has recorded no step and no evaluation yet"));
  EXPECT_THAT(html, HasSubstr("No step has been recorded yet."));
  fs::remove(folder.path() / "a/metrics.jsonl");
  fs::remove(folder.path() / "a/samples.jsonl");
  EXPECT_THAT(page_of({folder.path() / "a"}).html, HasSubstr("a has no samples.jsonl."));
}

TEST(RunReport, TheSameInputsGiveTheSameBytes) {
  const TemporaryFolder folder;
  const std::vector<fs::path> runs{write_run(folder, {"a", 0}), write_run(folder, {"b", 1})};
  EXPECT_EQ(page_of(runs, {kPredictions}).html, page_of(runs, {kPredictions}).html);
}

TEST(RunReport, AScheduledWeightHasAChart) {
  const TemporaryFolder folder;
  const std::string html = page_of({write_run(folder, {"a"})}).html;
  const std::string title = fmt::format("{}: weight", rewards()[reward_column("reasoning")].title);
  EXPECT_THAT(table_rows(html, title),
              ElementsAre(ElementsAre("step", "a"), ElementsAre("1", "0.25"), ElementsAre("2", "0.5"),
                          ElementsAre("3", "0.75"), ElementsAre("4", "1")));
  EXPECT_THAT(html, HasSubstr(fmt::format("{}: weight 1", rewards()[reward_column("format")].title)));
}

TEST(RunReport, WhereTheTimeGoes) {
  const TemporaryFolder folder;
  const std::string html = page_of({write_run(folder, {"a"})}).html;
  EXPECT_THAT(
      table_rows(html, "Time of a step"),
      ElementsAre(ElementsAre("name", "part", "seconds"), ElementsAre("a", "rollout, first stage", "1.5"),
                  ElementsAre("a", "rollout, second stage", "0.5"), ElementsAre("a", "rewards", "0.25"),
                  ElementsAre("a", "learning", "1"), ElementsAre("a", "exchange of the adapter", "0"),
                  ElementsAre("a", "rest", "0.75")));
  EXPECT_THAT(table_rows(html, "Means per step").at(1),
              ElementsAre("a", "4", "4.00", "8", "300", "100", "200", "2.50 kB", "–", "–"));
}

TEST(Answers, TheRuleOfTheChoice) {
  const TemporaryFolder folder;
  std::string lines;
  const auto add = [&](const SampleRecord& sample) { lines += to_json_line(sample) + "\n"; };
  add(example_sample(1, "early", 0, 3.0));  // perfect, but not in the last tenth
  add(example_sample(20, "a", 0, 3.5));
  add(example_sample(19, "a", 1, 3.1));  // the better one of a
  add(example_sample(20, "b", 0, 4.0));
  SampleRecord unrated = example_sample(20, "c", 0, 0);
  unrated.rating.reset();
  add(unrated);
  add(example_sample(20, "d", 0, 5.0));
  const ChosenSamples chosen = choose_samples(folder.write("samples.jsonl", lines), 2);
  EXPECT_EQ(chosen.first_step, 19);
  EXPECT_EQ(chosen.last_step, 20);
  EXPECT_EQ(chosen.compared, 5);
  ASSERT_EQ(chosen.good.size(), 2U);
  EXPECT_EQ(chosen.good[0].id, "a");
  EXPECT_EQ(chosen.good[0].member, 1);
  EXPECT_EQ(chosen.good[1].id, "b");
  ASSERT_EQ(chosen.bad.size(), 2U);
  EXPECT_EQ(chosen.bad[0].id, "c");
  EXPECT_EQ(chosen.bad[1].id, "d");
  EXPECT_DOUBLE_EQ(answer_error(unrated), 4);
}

TEST(Gallery, ShowsEachPictureAndWhatWasNotRated) {
  const TemporaryFolder folder;
  write_png(folder.path() / "p.png", {40, 20, std::vector<std::uint8_t>(40 * 20 * 3, 7)});
  const std::string html =
      gallery_begin(false) +
      gallery_card({"p.png", folder.path() / "p.png", 3.25, std::nullopt, "<script>x</script>", "why", true,
                    false, 0.5},
                   false) +
      gallery_card({"q.png", folder.path() / "q.png", 7.0, 2.0, "", "", true, true, 0.5}, false) +
      gallery_card({"r.png", folder.path() / "p.png", std::nullopt, std::nullopt, "", "", false, false, 0.5},
                   false) +
      gallery_end(3, {"cannot read <x>.png"}, "biqa test");
  expect_self_contained(html);
  expect_well_formed(html);
  EXPECT_THAT(html, HasSubstr("rating <b>3.25</b></span><span>from the caption <b>–</b>"));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;x&lt;/script&gt;"));
  EXPECT_THAT(html, HasSubstr("out of scale"));
  EXPECT_THAT(html, HasSubstr("the answer has no rating"));
  EXPECT_THAT(html, HasSubstr("cannot read &lt;x&gt;.png"));
  EXPECT_THAT(html, HasSubstr("class=\"missing\""));
  EXPECT_THAT(html, Not(HasSubstr("human score")));
}

TEST(Gallery, WithoutRatingsFromThePictureItShowsNone) {
  const std::string html =
      gallery_begin(true) + gallery_card({"q.png", "q.png", 4.0, 2.0, "c", "", true, false, 0.5}, true);
  EXPECT_THAT(html, HasSubstr("from the caption <b>2.00</b>"));
  EXPECT_THAT(html, Not(HasSubstr("<span>rating <b>")));
  EXPECT_THAT(html, Not(HasSubstr("rating from the picture")));
}

}  // namespace
}  // namespace biqa
