// SPDX-License-Identifier: Apache-2.0
// Which runs belong together, and the figures over them.
#include "report/runs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "report/fixture.h"
#include "report/pareto.h"

namespace biqa {
namespace {

using ::testing::ElementsAre;
using testing::example_step;
using testing::ExampleRun;
using ::testing::HasSubstr;
using testing::write_run;

std::vector<RunRecord> runs_of(const TemporaryFolder& folder, const std::vector<ExampleRun>& examples) {
  std::vector<std::filesystem::path> folders;
  for (const ExampleRun& example : examples) folders.push_back(write_run(folder, example));
  return read_runs(folders);
}

TEST(Runs, ThoseThatDifferOnlyInTheirSeedAreOneConfiguration) {
  const TemporaryFolder folder;
  // The example's seeds 0 and 1 also have different numbers of threads and folders, which change no result.
  const std::vector<RunRecord> runs =
      runs_of(folder, {{"a", 0}, {"other", 0, 0.002}, {"b", 1}, {"other-seed", 5, 0.002}});
  const std::vector<Configuration> configurations = configurations_of(runs);
  ASSERT_EQ(configurations.size(), 2U);
  EXPECT_EQ(configurations[0].name, "a (2 seeds)");
  EXPECT_THAT(configurations[0].runs, ElementsAre(&runs[0], &runs[2]));
  EXPECT_EQ(configurations[1].name, "other (2 seeds)");
  const std::vector<SettingDifference> differences = differences_of(configurations);
  ASSERT_EQ(differences.size(), 1U);
  EXPECT_EQ(differences[0].key, "optimizer.lr");
  EXPECT_THAT(differences[0].values, ElementsAre("0.001", "0.002"));
}

// The folders of launch/sweep.sh.
TEST(Runs, AConfigurationHasTheNameOfTheFolderOfItsSeeds) {
  const TemporaryFolder folder;
  const auto names = [](const std::vector<RunRecord>& runs) {
    std::vector<std::string> found;
    for (const Configuration& configuration : configurations_of(runs)) found.push_back(configuration.name);
    return found;
  };
  EXPECT_THAT(names(runs_of(folder, {{"x/full/seed-1", 1},
                                     {"x/full/seed-2", 2},
                                     {"x/nor/seed-1", 1, 0.002},
                                     {"y/full/seed-3", 3, 0.004}})),
              ElementsAre("x/full (2 seeds)", "nor", "y/full"));
  // Two configurations in one folder are no folder of seeds.
  EXPECT_THAT(names(runs_of(folder, {{"z/mix/seed-1", 1}, {"z/mix/seed-2", 2, 0.002}})),
              ElementsAre("seed-1", "seed-2"));
}

TEST(Runs, ARunWithoutConfigurationStandsAlone) {
  const TemporaryFolder folder;
  const std::vector<std::filesystem::path> folders{write_run(folder, {"a"}), write_run(folder, {"b"})};
  for (const auto& path : folders) std::filesystem::remove(path / "config.yaml");
  const std::vector<RunRecord> runs = read_runs(folders);
  EXPECT_EQ(configurations_of(runs).size(), 2U);
  EXPECT_THAT(runs[0].notes.front(), HasSubstr("no config.yaml"));
}

TEST(Runs, ABandReachesFromTheLeastToTheGreatestSeed) {
  const TemporaryFolder folder;
  const std::vector<RunRecord> runs =
      runs_of(folder, {{"a", 0, 0.001, 4, 0.0}, {"b", 1, 0.001, 4, 0.3}, {"c", 2, 0.001, 4, 0.6}});
  const StepCurve curve = step_curve(configurations_of(runs).front(), "reward_mean");
  ASSERT_EQ(curve.points.size(), 4U);
  EXPECT_EQ(curve.steps_per_point, 1);
  EXPECT_EQ(curve.points[1].x, 2);
  EXPECT_NEAR(curve.points[1].y, 0.5, 1e-12);
  EXPECT_NEAR(curve.points[1].low, 0.2, 1e-12);
  EXPECT_NEAR(curve.points[1].high, 0.8, 1e-12);
}

TEST(Runs, ASingleRunHasNoBand) {
  const TemporaryFolder folder;
  const std::vector<RunRecord> runs = runs_of(folder, {{"a"}});
  const StepCurve curve = step_curve(configurations_of(runs).front(), "reward_mean");
  EXPECT_TRUE(std::isnan(curve.points[0].low));
}

TEST(Runs, ValuesThatWereNotMeasuredStayMissing) {
  const TemporaryFolder folder;
  const std::vector<RunRecord> runs = runs_of(folder, {{"a"}});
  const StepCurve curve = step_curve(configurations_of(runs).front(), "entropy");
  ASSERT_EQ(curve.points.size(), 4U);
  for (const LinePoint& point : curve.points) EXPECT_TRUE(std::isnan(point.y));
}

TEST(Runs, LongRunsAreMeansOfConsecutiveSteps) {
  const TemporaryFolder folder;
  const std::vector<RunRecord> runs = runs_of(folder, {{"a", 0, 0.001, 10}});
  const StepCurve curve = step_curve(configurations_of(runs).front(), "reward_mean", 4);
  EXPECT_EQ(curve.steps_per_point, 3);
  ASSERT_EQ(curve.points.size(), 4U);
  EXPECT_EQ(curve.points[0].x, 2);
  EXPECT_NEAR(curve.points[0].y, 0.2, 1e-12);
  EXPECT_NEAR(curve.points[3].y, 1.0, 1e-12);  // step 10 alone
}

TEST(Runs, FiguresBeforeAndAfterTraining) {
  const TemporaryFolder folder;
  const std::vector<RunRecord> runs = runs_of(folder, {{"a", 0, 0.001, 4, 0.0}, {"b", 1, 0.001, 4, 0.25}});
  const Configuration configuration = configurations_of(runs).front();
  const EvaluationKey key{"test", "image", "greedy"};
  const FigureOverRuns before = evaluation_figure(configuration, key, "plcc", true);
  EXPECT_EQ(before.runs, 2);
  EXPECT_DOUBLE_EQ(before.mean, 0.375);
  const FigureOverRuns after = evaluation_figure(configuration, key, "plcc", false);
  EXPECT_DOUBLE_EQ(after.least, 0.625);
  EXPECT_DOUBLE_EQ(after.most, 0.875);
  EXPECT_EQ(evaluation_figure(configuration, {"other", "image", "greedy"}, "plcc", false).runs, 0);
}

TEST(Runs, TheEvaluationBeforeTrainingIsNoResult) {
  const TemporaryFolder folder;
  const auto root = write_run(folder, {"a"});
  folder.write("a/metrics.jsonl", to_json_line(testing::example_evaluation({}, 0, "image")) + "\n");
  const std::vector<RunRecord> runs = read_runs(std::vector{root});
  const Configuration configuration = configurations_of(runs).front();
  EXPECT_EQ(evaluation_figure(configuration, {"test", "image", "greedy"}, "plcc", true).runs, 1);
  EXPECT_EQ(evaluation_figure(configuration, {"test", "image", "greedy"}, "plcc", false).runs, 0);
}

TEST(Runs, NamesAreAsLongAsNeeded) {
  const TemporaryFolder folder;
  const std::vector<RunRecord> runs = runs_of(folder, {{"one/run"}, {"two/run"}, {"three"}});
  EXPECT_EQ(runs[0].name, "one/run");
  EXPECT_EQ(runs[1].name, "two/run");
  EXPECT_EQ(runs[2].name, "three");
}

TEST(Runs, ARunInProgressSaysSo) {
  const TemporaryFolder folder;
  auto root = write_run(folder, {"a", 0, 0.001, 3, 0, false});
  std::string text = file_content(root / "metrics.jsonl");
  folder.write("a/metrics.jsonl", text + "{\"step\":4,\"rewa");  // a line that is just being written
  const RunRecord run = read_run(root);
  EXPECT_EQ(run.last_step(), 3);
  EXPECT_FALSE(run.finished);
  EXPECT_THAT(run.notes.front(), HasSubstr("recorded 3 of 3 steps"));
}

TEST(Runs, WhatIsNoRunIsRefused) {
  const TemporaryFolder folder;
  const auto root = write_run(folder, {"a"});
  EXPECT_THAT(error_of([&] { read_run(folder.path() / "none"); }), HasSubstr("there is no such folder"));
  EXPECT_THAT(error_of([&] { read_run(folder.path() / "p0.png"); }), HasSubstr("it is not a folder"));
  EXPECT_THAT(error_of([&] { read_run(folder.path()); }), HasSubstr("neither config.yaml nor metrics.jsonl"));
  EXPECT_THAT(error_of([&] { read_runs(std::vector{root, root / "../a"}); }), HasSubstr("given twice"));
  folder.write("a/metrics.jsonl", "{\"step\":1}\n{\"step\":oops}\n");
  EXPECT_THAT(error_of([&] { read_run(root); }), HasSubstr("metrics.jsonl:2"));
}

TEST(Runs, LineageIsWhatTheFolderKnows) {
  const TemporaryFolder folder;
  const RunRecord run = read_run(write_run(folder, {"a", 7}));
  const auto fact = [&](const std::string& name) {
    for (const auto& [key, value] : run.lineage) {
      if (key == name) return value;
    }
    return std::string();
  };
  EXPECT_EQ(fact("base model"), "models/tiny");
  EXPECT_EQ(fact("start adapter"), "none");
  EXPECT_EQ(fact("seed"), "7");
  EXPECT_EQ(fact("final adapter.h5 (XXH3-128)").size(), 32U);
}

TEST(Pareto, AnotherThatIsAtLeastAsGoodInBothAndBetterInOneDominates) {
  EXPECT_THAT(non_dominated(std::vector<TwoFigures>{{0.5, 0.5}, {0.6, 0.5}, {0.4, 0.9}, {0.4, 0.8}}),
              ElementsAre(false, true, true, false));
}

TEST(Pareto, EqualOnesDoNotDominateEachOther) {
  EXPECT_THAT(non_dominated(std::vector<TwoFigures>{{0.5, 0.5}, {0.5, 0.5}}), ElementsAre(true, true));
}

TEST(Pareto, MissingFiguresNeitherWinNorDominate) {
  EXPECT_THAT(non_dominated(std::vector<TwoFigures>{{NAN, 0.9}, {0.1, 0.1}, {INFINITY, 1}}),
              ElementsAre(false, true, false));
}

}  // namespace
}  // namespace biqa
