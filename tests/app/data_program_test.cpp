// SPDX-License-Identifier: Apache-2.0
// biqa_data as people run it: help, exit codes, one error line, and no file after an error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/image.h"
#include "support/run_program.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class DataProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(program()))
      GTEST_SKIP() << program() << " is not built: build biqa_data_program to run this";
    folder_.write("set/scores.csv", "file,score\na.png,75\nb.png,100\n");
    for (const char* name : {"a.png", "b.png"}) picture(name);
  }

  static std::string program() { return (fs::path(BIQA_BIN_DIR) / "biqa_data").string(); }
  void picture(const std::string& name, std::uint8_t shade = 40) const {
    fs::create_directories(folder_.path() / "set");
    write_png(folder_.path() / "set" / name, {5, 3, std::vector<std::uint8_t>(45, shade)});
  }
  std::string out() const { return (folder_.path() / "m.jsonl").string(); }

  testing::ProgramOutcome run(std::vector<std::string> words) const {
    words.insert(words.begin(), program());
    return testing::run_program(folder_.path(), words);
  }
  testing::ProgramOutcome import(const std::vector<std::string>& more = {}) const {
    const std::string root = (folder_.path() / "set").string();
    std::vector<std::string> words{"import", "csv", "--root", root, "--labels", root + "/scores.csv",
                                   "--out",  out()};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  }
  static void expect_error(const testing::ProgramOutcome& outcome, int code, const std::string& part) {
    EXPECT_EQ(outcome.code, code) << outcome.err;
    ASSERT_EQ(outcome.errors().size(), 1U) << outcome.err;
    EXPECT_THAT(outcome.errors().front(), HasSubstr(part));
  }

  TemporaryFolder folder_;
};

TEST_F(DataProgram, HelpAndVersion) {
  const testing::ProgramOutcome help = run({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* word : {"biqa_data", "import SET", "--skip-bad", "koniq10k", "q-reasoning"})
    EXPECT_THAT(help.out, HasSubstr(word));
  EXPECT_EQ(run({"--version"}).code, 0);
}

TEST_F(DataProgram, Imports) {
  const testing::ProgramOutcome outcome = import({"--scale", "50..100"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err, HasSubstr("csv: wrote 2 rows"));
  const std::string first = file_content(out());
  EXPECT_EQ(nlohmann::json::parse(first.substr(0, first.find('\n'))),
            nlohmann::json::parse(R"({"id": "a.png", "image": "set/a.png", "score": 3.0, "raw_score": 75.0,
              "set": "scores", "width": 5, "height": 3})"));
}

TEST_F(DataProgram, Errors) {
  expect_error(run({}), 2, "nothing is not a command");
  expect_error(run({"export"}), 2, "'export' is not a command");
  expect_error(run({"import"}), 2, "import takes one data set");
  expect_error(run({"import", "koniq"}), 2, "koniq10k");
  expect_error(run({"import", "koniq10k"}), 2, "flag --root is missing");
  expect_error(import(), 2, "flag --scale is missing");
  expect_error(import({"--scale", "0..100", "--columns", "x"}), 2, "--columns");
  expect_error(import({"--scale", "0..90"}), 1, "scores.csv:3: score 100 is outside the range 0..90");
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(DataProgram, SkipsBadRows) {
  folder_.write("set/b.png", "no image");
  expect_error(import({"--scale", "0..100"}), 1, "b.png");
  EXPECT_FALSE(fs::exists(out()));
  const testing::ProgramOutcome outcome = import({"--scale", "0..100", "--skip-bad"});
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("left out 1 of 2 rows"));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n') > 3, true);
  EXPECT_TRUE(outcome.errors().empty()) << outcome.err;
  const std::string rows = file_content(out());
  EXPECT_EQ(std::count(rows.begin(), rows.end(), '\n'), 1);
}

// What was written stays if a later import fails.
TEST_F(DataProgram, KeepsTheOldManifest) {
  EXPECT_EQ(import({"--scale", "0..100"}).code, 0);
  const std::string before = file_content(out());
  folder_.write("set/scores.csv", "file,score\na.png,nan\n");
  expect_error(import({"--scale", "0..100"}), 1, "scores.csv:2: score is 'nan'");
  EXPECT_EQ(file_content(out()), before);
}

}  // namespace
}  // namespace biqa
