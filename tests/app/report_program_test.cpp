// SPDX-License-Identifier: Apache-2.0
// biqa_report as a program, on a run that biqa_learner made, and `biqa_score --format html`.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "report/fixture.h"
#include "report/html.h"
#include "report/page_reader.h"
#include "run/records.h"
#include "support/run_program.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using testing::expect_self_contained;
using testing::expect_well_formed;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::table_rows;
using Arguments = std::vector<std::string>;
using Outcome = testing::ProgramOutcome;

const fs::path kTiny = fs::path(BIQA_SOURCE_DIR) / "assets/tiny";

std::string program(const std::string& name) {
  return (fs::path(BIQA_BIN_DIR) / name).string();
}

class ReportProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"biqa_learner", "biqa_report", "biqa_score"}) {
      if (!fs::exists(program(name)))
        GTEST_SKIP() << program(name) << " is not built: build the target " << name << "_program to run this";
    }
  }
  Outcome report(const Arguments& more) const {
    Arguments words{program("biqa_report")};
    words.insert(words.end(), more.begin(), more.end());
    return testing::run_program(folder_.path(), words);
  }
  /// A training of two steps.
  std::string learn(int seed) const {
    const std::string out = path(fmt::format("seed{}", seed));
    Arguments words{program("biqa_learner"), "--config",
                    (fs::path(BIQA_SOURCE_DIR) / "configs/quickstart.yaml").string()};
    for (const std::string& set :
         {"train.out=" + out, fmt::format("train.seed={}", seed), std::string("rollout.images_per_step=2"),
          std::string("rollout.group_size=2"), std::string("train.steps=2"),
          std::string("train.eval_images=3"), std::string("train.eval_decodings=[greedy]")})
      words.insert(words.end(), {"--set", set});
    const Outcome outcome = testing::run_program(folder_.path(), words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return out;
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  static void expect_error(const Outcome& outcome, int code, const std::string& part) {
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.errors().size(), 1U) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(part));
    EXPECT_EQ(outcome.out, "");
  }

  TemporaryFolder folder_;
};

TEST_F(ReportProgram, ShowsARealRunOfTwoSeeds) {
  const std::string first = learn(1), second = learn(2), out = path("report.html");
  const Outcome outcome = report({first, second, "--out", out, "--samples", "1"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  const std::string html = file_content(out);
  expect_self_contained(html);
  expect_well_formed(html);
  EXPECT_THAT(html, HasSubstr("seed1 (2 seeds)"));
  EXPECT_THAT(html, HasSubstr("class=\"band c0\""));
  EXPECT_THAT(html, HasSubstr("src=\"data:image/jpeg;base64,"));
  const MetricsFile a = read_metrics(fs::path(first) / "metrics.jsonl"),
                    b = read_metrics(fs::path(second) / "metrics.jsonl");
  ASSERT_EQ(a.steps.size(), 2U);
  const auto rows = table_rows(html, "Time of the rollout");
  ASSERT_EQ(rows.size(), 3U);
  const double x = a.steps[0].rollout_seconds, y = b.steps[0].rollout_seconds;
  EXPECT_EQ(rows.at(1).at(1), fmt::format("{} [{}, {}]", figure_text((x + y) / 2),
                                          figure_text(std::min(x, y)), figure_text(std::max(x, y))));
}

TEST_F(ReportProgram, WrongUseIsOneErrorAndLeavesNoPage) {
  const std::string run = testing::write_run(folder_, {"run"}).string(), out = path("report.html");
  expect_error(report({"--out", out}), 2, "no run is given");
  expect_error(report({run}), 2, "flag --out is missing");
  expect_error(report({run, run, "--out", out}), 2, "is given twice");
  expect_error(report({path("none"), "--out", out}), 1, "there is no such folder");
  expect_error(report({run, "--predictions", path("none.jsonl"), "--out", out}), 1, "none.jsonl");
  expect_error(report({run, "--out", path("no/folder/report.html")}), 1, "report.html");
  const std::string predictions = folder_.write("b.jsonl", "{}\n").string();
  expect_error(report({run, "--predictions", predictions, "--out", path("./b.jsonl")}), 2,
               "would replace the input");
  EXPECT_EQ(file_content(predictions), "{}\n");
  folder_.write("run/samples.jsonl", "{\"step\":1}\nnot JSON\n");
  expect_error(report({run, "--out", out}), 1, "samples.jsonl:2");
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(ReportProgram, AFailureKeepsThePageThatWasThere) {
  const std::string run = testing::write_run(folder_, {"run"}).string();
  const std::string out = folder_.write("report.html", "before").string();
  folder_.write("run/metrics.jsonl", "broken\n");
  EXPECT_EQ(report({run, "--out", out}).code, 1);
  EXPECT_EQ(file_content(out), "before");
}

TEST_F(ReportProgram, AMissingPictureIsToldAndNoError) {
  const std::string run = testing::write_run(folder_, {"run"}).string();
  const Outcome outcome = report({run, "--out", path("report.html")});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("placeholders on the page: 1"));
}

TEST_F(ReportProgram, ScoresOutsideTheScaleAreToldAndNoError) {
  const std::string run = testing::write_run(folder_, {"run"}).string(), out = path("report.html");
  const std::string file =
      folder_
          .write("p.jsonl",
                 "{\"id\":\"x\",\"score\":2,\"rating\":2}\n{\"id\":\"y\",\"score\":50,\"rating\":3}\n")
          .string();
  const Outcome outcome = report({run, "--predictions", file, "--out", out});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const std::string told = "1 scores of " + file + " lie outside 1 to 5, the first in line 2";
  EXPECT_THAT(outcome.err, HasSubstr("warning: " + told));
  EXPECT_THAT(file_content(out), HasSubstr("Warning: " + told));
}

TEST_F(ReportProgram, ABrowserLoadsNothingAndComplainsOfNothing) {
  const std::string run = testing::write_run(folder_, {"run"}).string(), out = path("report.html");
  ASSERT_EQ(report({run, "--out", out}).code, 0);
  const auto open = [&](const std::string& page) {
    return testing::run_program(
        folder_.path(), {"chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=1000",
                         "--user-data-dir=" + path("profile"), "--dump-dom", "file://" + page});
  };
  const Outcome outcome = open(out);
  if (outcome.code == 127) GTEST_SKIP() << "chromium is not installed";
  if (outcome.code != 0) GTEST_SKIP() << "chromium does not run here: " << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("</html>"));
  EXPECT_THAT(outcome.err, Not(HasSubstr("CONSOLE")));
  // The page's own rule refuses what leaves the page, and the browser says so.
  std::string html = file_content(out);
  html.insert(html.find("</main>"), "<img src=\"http://biqa.invalid/x.png\"><script>alert(1)</script>");
  const std::string refused = open(folder_.write("refused.html", html).string()).err;
  EXPECT_THAT(refused, HasSubstr("http://biqa.invalid/x.png"));
  EXPECT_THAT(refused, HasSubstr("script"));
}

TEST_F(ReportProgram, ScoreWritesAGallery) {
  const fs::path pictures = folder_.path() / "pictures";
  fs::create_directories(pictures);
  fs::copy_file(kTiny / "sample_cat.png", pictures / "cat <b>.png");
  folder_.write("pictures/broken.png", "no picture");
  const Outcome outcome =
      testing::run_program(folder_.path(), {program("biqa_score"), "--config",
                                            (fs::path(BIQA_SOURCE_DIR) / "configs/quickstart.yaml").string(),
                                            "--format", "html", pictures.string()});
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  expect_self_contained(outcome.out);
  expect_well_formed(outcome.out);
  EXPECT_TRUE(outcome.out.ends_with("</html>\n"));
  EXPECT_THAT(outcome.out, HasSubstr("cat &lt;b&gt;.png"));
  EXPECT_THAT(outcome.out, HasSubstr("src=\"data:image/jpeg;base64,"));
  EXPECT_THAT(outcome.out, HasSubstr("Not rated"));
  EXPECT_THAT(outcome.out, HasSubstr("broken.png"));
}

}  // namespace
}  // namespace biqa
