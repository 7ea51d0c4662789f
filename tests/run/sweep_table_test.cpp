// SPDX-License-Identifier: Apache-2.0
#include "run/sweep_table.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "run/run_folder.h"
#include "run/sweep_differences.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class SweepTableTest : public testing::Test {
 protected:
  static EvalMetrics line(std::int64_t step, const std::string& condition, double plcc,
                          std::int64_t failures = 0) {
    EvalMetrics m;
    m.step = step;
    m.set = "koniq";
    m.condition = condition;
    m.decoding = "greedy";
    m.n = 20;
    m.parse_failures = failures;
    m.plcc = plcc;
    m.srcc = plcc / 2;
    if (condition == "image") m.rouge1_r = plcc / 4;
    return m;
  }
  /// A run folder with these evaluations behind a step.
  void add_run(const std::string& name, const std::vector<EvalMetrics>& lines, bool finished = true) {
    std::string text = to_json_line(StepMetrics{}) + "\n";
    for (const EvalMetrics& one : lines) text += to_json_line(one) + "\n";
    folder.write(name + "/config.yaml", "");
    folder.write(name + "/metrics.jsonl", text);
    if (finished) folder.write(name + "/curves.svg", "");
  }
  SweepTable table() const { return sweep_table(read_sweep(folder.path())); }

  TemporaryFolder folder;
};

TEST_F(SweepTableTest, MeansAndDeviationsOfTheLastStep) {
  add_run("a/seed-1", {line(0, "image", .9), line(4, "image", .5, 1), line(4, "caption", .1)});
  add_run("a/seed-2", {line(0, "image", .9), line(4, "image", .7, 4), line(4, "caption", .3)});
  add_run("b/seed-1", {line(4, "image", .6), line(4, "caption", NAN)});
  const SweepTable all = table();
  EXPECT_THAT(all.notes, IsEmpty());
  ASSERT_EQ(all.rows.size(), 2U);
  const SweepRow& a = all.rows[0];
  EXPECT_EQ(a.config, "a");
  EXPECT_EQ(a.set, "koniq");
  EXPECT_EQ(a.step, 4);
  EXPECT_EQ(a.images, 20);
  EXPECT_THAT(a.seeds, ElementsAre("1", "2"));
  const auto figure = [&](const SweepRow& row, std::string_view name) {
    for (std::size_t i = 0; i < all.columns.size(); ++i) {
      if (all.columns[i].name == name) return row.figures[i];
    }
    ADD_FAILURE() << name;
    return SweepFigure{};
  };
  EXPECT_THAT(figure(a, "image_plcc").values, ElementsAre(.5, .7));
  EXPECT_DOUBLE_EQ(figure(a, "image_plcc").mean, .6);
  EXPECT_DOUBLE_EQ(figure(a, "image_plcc").deviation, std::sqrt(.02));
  EXPECT_DOUBLE_EQ(figure(a, "image_srcc").mean, .3);
  EXPECT_DOUBLE_EQ(figure(a, "caption_plcc").mean, .2);
  EXPECT_DOUBLE_EQ(figure(a, "rouge1_r").mean, .15);
  EXPECT_EQ(figure(a, "image_parse_failures").mean, 2.5);
  EXPECT_EQ(figure(a, "rouge1_p").n, 0);
  const SweepRow& b = all.rows[1];
  EXPECT_EQ(figure(b, "image_plcc").mean, .6);
  EXPECT_TRUE(std::isnan(figure(b, "image_plcc").deviation));
  EXPECT_EQ(figure(b, "caption_plcc").n, 0);

  EXPECT_THAT(sweep_text(all), HasSubstr("koniq, greedy, 20 images\n"));
  for (const char* title : {"ROUGE-1 P", "ROUGE-1 R", "ROUGE-1 F1"})
    EXPECT_THAT(sweep_text(all), HasSubstr(fmt::format("{} (without chance level)", title)));
  EXPECT_THAT(sweep_text(all), HasSubstr("0.600 ± 0.141"));
  std::istringstream csv(sweep_csv(all));
  std::string head, first;
  std::getline(csv, head);
  std::getline(csv, first);
  EXPECT_THAT(head,
              testing::StartsWith(
                  "config,set,decoding,step,images,seeds,unfinished,image_plcc_mean,image_plcc_deviation,"));
  EXPECT_THAT(first, testing::StartsWith(fmt::format("\"a\",\"koniq\",greedy,4,20,2,0,{},{},2,",
                                                     figure(a, "image_plcc").mean,
                                                     figure(a, "image_plcc").deviation)));
  EXPECT_EQ(std::count(head.begin(), head.end(), ','), std::count(first.begin(), first.end(), ','));
  const auto json = nlohmann::json::parse(sweep_json(all));
  EXPECT_EQ(json["rows"][0]["image_plcc"]["values"].get<std::vector<double>>(),
            (std::vector<double>{.5, .7}));
  EXPECT_EQ(json["rows"][0]["image_plcc"]["mean"].get<double>(), figure(a, "image_plcc").mean);
  EXPECT_TRUE(json["rows"][1]["image_plcc"]["deviation"].is_null());
  EXPECT_TRUE(json["rows"][1]["caption_plcc"]["mean"].is_null());
}

// A mean over some of the seeds says over how many.
TEST_F(SweepTableTest, UndefinedFiguresAreCounted) {
  add_run("a/seed-1", {line(4, "image", .5)});
  add_run("a/seed-2", {line(4, "image", NAN)});
  EXPECT_THAT(sweep_text(table()), HasSubstr("0.500 (1)"));
}

TEST_F(SweepTableTest, UnfinishedRunsAreLeftOutAndNamed) {
  add_run("a/seed-10", {line(4, "image", .5)});
  add_run("a/seed-9", {line(2, "image", .9)}, false);
  add_run("a/seed-2", {line(4, "image", .7)});
  add_run("b/seed-1", {line(0, "image", .9)}, false);
  const SweepTable all = table();
  ASSERT_EQ(all.rows.size(), 2U);
  EXPECT_THAT(all.rows[0].seeds, ElementsAre("2", "10"));
  EXPECT_THAT(all.rows[0].unfinished, ElementsAre("9"));
  EXPECT_DOUBLE_EQ(all.rows[0].figures[0].mean, .6);
  EXPECT_THAT(all.rows[1].seeds, IsEmpty());
  EXPECT_THAT(all.rows[1].unfinished, ElementsAre("1"));
  EXPECT_THAT(all.notes,
              ElementsAre(HasSubstr("a: not finished and left out: seed 9;"), HasSubstr("b: not finished")));
  EXPECT_THAT(sweep_text(all), Not(HasSubstr("0.900")));
  EXPECT_THAT(sweep_csv(all), HasSubstr("\"b\",\"\",,0,0,0,1,,,0"));
}

// A run that goes on after its end, to train longer, is not finished until it ends again.
TEST_F(SweepTableTest, AStartAfterTheEndUndoesIt) {
  add_run("a/seed-1", {line(4, "image", .5)});
  const fs::path run = folder.path() / "a/seed-1";
  EXPECT_TRUE(is_finished(run));
  fs::last_write_time(run / "config.yaml", fs::last_write_time(run / "curves.svg") + std::chrono::seconds(1));
  EXPECT_FALSE(is_finished(run));
  EXPECT_FALSE(is_finished(folder.path() / "none"));
}

TEST_F(SweepTableTest, SeedsThatWereNotEvaluatedAlikeAreNamed) {
  add_run("a/seed-1", {line(4, "image", .5)});
  add_run("a/seed-2", {line(8, "image", .7)});
  EXPECT_THAT(table().notes, ElementsAre(HasSubstr("the seeds were evaluated after different steps")));
}

// The documents of biqa_eval: numbers within objects count too, and null is a figure without value.
TEST_F(SweepTableTest, EvaluationsOfFinishedRuns) {
  const auto document = [](double plcc, const std::string& excess) {
    return fmt::format(
        R"({{"rows": [{{"set": "koniq", "condition": "image", "decoding": "greedy", "n": 20, "plcc": {},
            "plcc_ci": [0.1, 0.9], "texts": {{"rouge1_r_excess": {}}}}},
            {{"set": "koniq", "condition": "caption", "decoding": "greedy", "n": 20, "plcc": 0.25, "texts": null}}],
            "gaps": []}})",
        plcc, excess);
  };
  add_run("a/seed-1", {line(4, "image", .1)});
  add_run("a/seed-2", {line(4, "image", .1)});
  add_run("a/seed-3", {line(4, "image", .1)});
  folder.write("a/seed-1/evaluation.json", document(.5, "0.125"));
  folder.write("a/seed-2/evaluation.json", document(.75, "null"));
  const std::span<const SweepColumn> columns = sweep_columns(SweepSource::evaluation);
  const SweepTable all = sweep_table(read_sweep(folder.path(), SweepSource::evaluation), columns);
  ASSERT_EQ(all.rows.size(), 1U);
  EXPECT_THAT(all.notes, ElementsAre(HasSubstr("a: not finished and left out: seed 3")));
  EXPECT_EQ(all.rows[0].images, 20);
  EXPECT_EQ(all.rows[0].step, 4) << "the run's last";
  const auto json = nlohmann::json::parse(sweep_json(all))["rows"][0];
  EXPECT_EQ(json["image_plcc"]["values"].get<std::vector<double>>(), (std::vector<double>{.5, .75}));
  EXPECT_EQ(json["caption_plcc"]["mean"].get<double>(), .25);
  EXPECT_EQ(json["rouge1_r_excess"]["mean"].get<double>(), .125);
  EXPECT_EQ(json["rouge1_r_excess"]["n"].get<int>(), 1);
  EXPECT_EQ(json["polarity_excess"]["n"].get<int>(), 0);
  EXPECT_THAT(sweep_text(all), HasSubstr("0.125 (1)"));

  folder.write("a/seed-2/evaluation.json", "{\"rows\": 3}");
  EXPECT_THAT(error_of([&] { read_sweep(folder.path(), SweepSource::evaluation); }),
              HasSubstr("a/seed-2/evaluation.json is not a document of biqa_eval"));
}

// By hand: the differences of image PLCC are .1 and .3, so mean .2, deviation .1·√2, and .2 ± 12.7062·.1 for two pairs.
TEST_F(SweepTableTest, DifferencesArePairedBySeed) {
  const auto add = [&](const std::string& name, double plcc, double recall, double excess, int images = 20) {
    add_run(name, {line(4, "image", .1)});
    folder.write(
        name + "/evaluation.json",
        fmt::format(R"({{"rows": [{{"set": "koniq", "condition": "image", "decoding": "greedy", "n": {},
                     "plcc": {}, "texts": {{"rouge1_r": {}, "rouge1_r_excess": {}}}}}]}})",
                    images, plcc, recall, excess));
  };
  add("full/seed-1", .5, .5, .25);
  add("full/seed-2", .25, .5, .25);
  add("full/seed-4", .9, .5, .25);
  add("nor/seed-1", .6, .25, .125);
  add("nor/seed-2", .55, .25, .125);
  add("nor/seed-3", 0, 0, 0);  // has no pair
  add("one/seed-1", .4, .75, .5, 10);
  add_run("late/seed-1", {line(4, "image", .1)}, false);
  const std::vector<SweepRun> runs = read_sweep(folder.path(), SweepSource::evaluation);
  const SweepDifferences all = sweep_differences(runs, "full");
  ASSERT_EQ(all.rows.size(), 2U);
  EXPECT_EQ(all.rows[0].config, "nor");
  const SweepDifference& plcc = all.rows[0].figures[0];
  EXPECT_EQ(plcc.pairs, 2);
  EXPECT_NEAR(plcc.mean, .2, 1e-12);
  EXPECT_NEAR(plcc.interval.low, .2 - 12.706204736 * .1, 1e-9);
  EXPECT_NEAR(plcc.interval.high, .2 + 12.706204736 * .1, 1e-9);
  EXPECT_EQ(all.rows[1].figures[0].pairs, 1);
  EXPECT_NEAR(all.rows[1].figures[0].mean, -.1, 1e-12);
  EXPECT_TRUE(std::isnan(all.rows[1].figures[0].interval.low));
  EXPECT_THAT(all.notes,
              ElementsAre(HasSubstr("late: not finished"), HasSubstr("one on koniq (greedy): fewer than two"),
                          HasSubstr("evaluated on 10 images, but full was evaluated on 20")));

  const std::string text = differences_text(all);
  EXPECT_THAT(text, HasSubstr("koniq, greedy: differences to full, paired by seed, with 95 % intervals"));
  EXPECT_THAT(text, HasSubstr("+0.200 [-1.071, +1.471]"));
  EXPECT_THAT(text, HasSubstr("-0.250 [-0.250, -0.250]  -0.125 [-0.125, -0.125]"));
  const auto json = nlohmann::json::parse(differences_json(all));
  EXPECT_EQ(json["against"], "full");
  EXPECT_EQ(json["rows"][0]["rouge1_r"]["mean"].get<double>(), -.25);
  EXPECT_EQ(json["rows"][0]["rouge1_r_excess"]["pairs"].get<int>(), 2);
  EXPECT_TRUE(json["rows"][1]["image_plcc"]["low"].is_null());
  std::istringstream csv(differences_csv(all));
  std::string head, first;
  std::getline(csv, head);
  std::getline(csv, first);
  EXPECT_THAT(head, testing::StartsWith("config,against,set,decoding,image_plcc_mean,image_plcc_low,"));
  EXPECT_THAT(first, testing::StartsWith(fmt::format("\"nor\",\"full\",\"koniq\",greedy,{},", plcc.mean)));
  EXPECT_EQ(std::count(head.begin(), head.end(), ','), std::count(first.begin(), first.end(), ','));
  EXPECT_THAT(error_of([&] { sweep_differences(runs, "ful"); }),
              HasSubstr("it must be one of the configurations full, late, nor, one"));
}

// Of two sets, two decodings, and a run without the figure.
TEST_F(SweepTableTest, DifferencesKeepToTheirSetAndDecoding) {
  const auto add = [&](const std::string& name, const std::string& seen, double spaq, double sampled) {
    add_run(name, {line(4, "image", .1)});
    const std::string row =
        R"({{"set": "{}", "condition": "image", "decoding": "{}", "n": 20, "plcc": {}, "texts": null}})";
    folder.write(
        name + "/evaluation.json",
        fmt::format(R"({{"rows": [{}, {}, {}]}})", fmt::format(fmt::runtime(row), "koniq", "greedy", seen),
                    fmt::format(fmt::runtime(row), "spaq", "greedy", spaq),
                    fmt::format(fmt::runtime(row), "koniq", "sampled", sampled)));
  };
  add("full/seed-0", "0.25", 0, 0);  // so that seeds are not at the same place in both
  add("full/seed-1", "0.5", .25, .125);
  add("full/seed-2", "0.5", .25, .125);
  add("nor/seed-1", "1", 1, 1);
  add("nor/seed-2", "null", 1, 1);
  const SweepDifferences all = sweep_differences(read_sweep(folder.path(), SweepSource::evaluation), "full");
  std::map<std::string, std::pair<std::int64_t, double>> found;
  for (const SweepDifferenceRow& row : all.rows)
    found[row.set + " " + row.decoding] = {row.figures[0].pairs, row.figures[0].mean};
  EXPECT_THAT(found, ElementsAre(std::pair("koniq greedy", std::pair(1, .5)),
                                 std::pair("koniq sampled", std::pair(2, .875)),
                                 std::pair("spaq greedy", std::pair(2, .75))));
}

TEST_F(SweepTableTest, WhatIsNoSweep) {
  EXPECT_THAT(error_of([&] { read_sweep(folder.path() / "none"); }), HasSubstr("cannot read the sweep"));
  EXPECT_THAT(error_of([&] { read_sweep(folder.path()); }), HasSubstr("holds no run folder CONFIG/seed-N"));
  add_run("a/seed-1", {});
  EXPECT_THAT(table().notes, ElementsAre(HasSubstr("no evaluation; set data.eval")));
  folder.write("a/seed-1/metrics.jsonl", "{\"step\": 1, \"eval\": 3}\n{}\n");
  EXPECT_THAT(error_of([&] { read_sweep(folder.path()); }), HasSubstr("metrics.jsonl:1"));
}

}  // namespace
}  // namespace biqa
