// SPDX-License-Identifier: Apache-2.0
// biqa_data as people run it: help, exit codes, one error line, and no file after an error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

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
  EXPECT_THAT(outcome.err, HasSubstr("set: scores, the name in tables of results; --name gives another"));
}

TEST_F(DataProgram, AnOwnSetHasTheNameThatIsGiven) {
  const testing::ProgramOutcome outcome = import({"--scale", "50..100", "--name", "my phone"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("set: my phone, the name in tables of results\n"));
  std::istringstream rows(file_content(out()));
  std::size_t count = 0;
  for (std::string row; std::getline(rows, row); ++count)
    EXPECT_EQ(nlohmann::json::parse(row)["set"], "my phone");
  EXPECT_EQ(count, 2U);
}

TEST_F(DataProgram, Errors) {
  expect_error(run({}), 2, "no command is given");
  expect_error(run({"export"}), 2, "'export' is not a command");
  expect_error(run({"import"}), 2, "import takes one data set");
  expect_error(run({"import", "koniq"}), 2, "koniq10k");
  expect_error(run({"import", "koniq10k"}), 2, "flag --root is missing");
  expect_error(import(), 2, "flag --scale is missing");
  expect_error(import({"--scale", "0..100", "--columns", "x"}), 2, "--columns");
  expect_error(import({"--scale", "0..100", "--sheet", "x"}), 2, "flag --sheet has no effect on");
  expect_error(import({"--scale", "0..100", "--sheet", ""}), 2, "flag --sheet is empty");
  expect_error(import({"--scale", "0..100", "--name", ""}), 2, "flag --name is empty");
  expect_error(import({"--scale", "0..90"}), 1, "scores.csv:3: score 100 is outside the range 0..90");
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(DataProgram, FlagsWithoutEffectAreRefused) {
  const std::string root = (folder_.path() / "set").string();
  const auto koniq = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"import", "koniq10k", "--root", root, "--out", out()};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  expect_error(koniq({"--columns", "image=a,score=b"}), 2, "flag --columns has no effect on import koniq10k");
  expect_error(koniq({"--name", "mine"}), 2, "flag --name has no effect on import koniq10k");
  expect_error(koniq({"--with-tutorial"}), 2, "flag --with-tutorial has no effect on import koniq10k");
  expect_error(koniq({"--photos", "x"}), 2, "flag --photos has no effect");
  expect_error(koniq({"--expect-size", "4x3", "--no-check-images"}), 2,
               "flag --expect-size has no effect on images");
  expect_error(import({"--scale", "0..100", "--format", "json"}), 2,
               "flag --format has no effect on import csv");
  expect_error(run({"validate", out(), "--skip-bad"}), 2, "flag --skip-bad has no effect on validate");
  expect_error(run({"stats", out(), "--n", "3"}), 2, "flag --n has no effect on stats");
  expect_error(run({"overlap", out(), out(), "--seed", "3"}), 2, "flag --seed has no effect on overlap");
  expect_error(run({"synth", "--photos", root, "--out", out(), "--root", root}), 2,
               "flag --root has no effect on synth");
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

TEST_F(DataProgram, ValidateListsFaults) {
  EXPECT_EQ(import({"--scale", "0..100"}).code, 0);
  const testing::ProgramOutcome good = run({"validate", out()});
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_EQ(good.out, "2 rows, 0 faults\n");
  fs::remove(folder_.path() / "set/b.png");
  const testing::ProgramOutcome bad = run({"validate", out(), "--format", "json"});
  EXPECT_EQ(bad.code, 3) << bad.err;
  const auto document = nlohmann::json::parse(bad.out);
  EXPECT_EQ(document["rows"], 2);
  ASSERT_EQ(document["faults"].size(), 1U);
  EXPECT_EQ(document["faults"][0]["line"], 2);
  folder_.write("more.jsonl", R"({"id": "a", "image": "set/a.png", "score": 3, "mos": 1})");
  const testing::ProgramOutcome noted = run({"validate", (folder_.path() / "more.jsonl").string()});
  EXPECT_EQ(noted.code, 0);
  EXPECT_EQ(
      noted.out,
      "note: no program reads the key 'mos', which 1 rows have, the first in line 1\n1 rows, 0 faults\n");
  expect_error(run({"validate", "nowhere.jsonl"}), 1, "nowhere.jsonl");
  expect_error(run({"validate"}), 2, "validate takes one manifest");
  expect_error(run({"validate", out(), "--format", "csv"}), 2, "--format");
}

TEST_F(DataProgram, StatsAndOverlap) {
  EXPECT_EQ(import({"--scale", "0..100"}).code, 0);
  const testing::ProgramOutcome table = run({"stats", out()});
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out,
              HasSubstr("4.75..5.00       1 ##################################################\n"));
  const auto stats = nlohmann::json::parse(run({"stats", out(), "--format", "json"}).out);
  EXPECT_EQ(stats["scores"]["mean"], 4.5);
  EXPECT_EQ(stats["groups"][0]["rows"], 2);
  // Names come from files of others, and a terminal obeys control characters.
  const std::string odd =
      folder_
          .write("odd.jsonl",
                 R"({"id": "a", "image": "a.png", "score": 3, "set": "x\n\u001b[31m", "split": "\u001b]"})")
          .string();
  const testing::ProgramOutcome printable = run({"stats", odd});
  EXPECT_EQ(printable.code, 0) << printable.err;
  EXPECT_THAT(printable.out, HasSubstr(R"(x\n\x1b[31m)"));
  EXPECT_EQ(printable.out.find('\x1b'), std::string::npos);
  // Both images of the fixture have one colour.
  const testing::ProgramOutcome pairs = run({"overlap", out(), out()});
  EXPECT_EQ(pairs.code, 0) << pairs.err;
  EXPECT_EQ(pairs.out, "a.png | b.png | pixels\n2 and 2 rows; pairs: 0 by name, 1 by pixels, 0 alike\n");
  const testing::ProgramOutcome short_list = run({"overlap", out(), out(), "--pairs", "0"});
  EXPECT_EQ(short_list.out,
            "and 1 more pairs (--pairs lists more)\n2 and 2 rows; pairs: 0 by name, 1 by pixels, 0 alike\n");
  folder_.write("set/b.png", "no image");
  const testing::ProgramOutcome broken = run({"overlap", out(), out(), "--format", "json"});
  EXPECT_EQ(broken.code, 3);
  EXPECT_EQ(broken.errors().size(), 1U) << broken.err;
  EXPECT_TRUE(nlohmann::json::parse(broken.out)["pairs"].empty());
}

TEST_F(DataProgram, Synth) {
  const std::string photos = (folder_.path() / "set").string(),
                    folder = (folder_.path() / "synthetic").string();
  const testing::ProgramOutcome outcome = run({"synth", "--photos", photos, "--out", folder, "--n", "3"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(run({"validate", folder + "/manifest.jsonl"}).out, "3 rows, 0 faults\n");
  expect_error(run({"synth", "--photos", photos, "--out", folder}), 1, "synthetic");
  picture("c.png");
  folder_.write("set/c.png", "no image");
  const testing::ProgramOutcome some = run({"synth", "--photos", photos, "--out", folder + "2", "--n", "6"});
  EXPECT_EQ(some.code, 3) << some.err;
  ASSERT_EQ(some.errors().size(), 1U) << some.err;
  EXPECT_THAT(some.errors().front(), HasSubstr("c.png"));
  EXPECT_THAT(some.err, HasSubstr("left out 2 of 6 images"));
  expect_error(run({"synth", "--photos", photos, "--out", folder, "--n", "0"}), 2, "--n");
  expect_error(run({"synth", "x", "--photos", photos, "--out", folder}), 2, "synth takes no arguments");
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
