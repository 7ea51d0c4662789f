// SPDX-License-Identifier: Apache-2.0
// biqa_eval as a program: flags, formats, errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "support/run_program.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Arguments = std::vector<std::string>;
using Outcome = testing::ProgramOutcome;

const std::string kProgram = (fs::path(BIQA_BIN_DIR) / "biqa_eval").string();
const std::string kPredictions = BIQA_SOURCE_DIR "/tests/fixtures/evaluation/predictions.jsonl";

class EvalProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kProgram))
      GTEST_SKIP() << kProgram << " is not built: build biqa_eval_program to run this";
  }
  Outcome run(const Arguments& more) const {
    Arguments words{kProgram};
    words.insert(words.end(), more.begin(), more.end());
    return testing::run_program(folder_.path(), words);
  }
  static void expect_error(const Outcome& outcome, int code, const std::string& part) {
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.errors().size(), 1U) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(part));
    EXPECT_EQ(outcome.out, "");
  }

  TemporaryFolder folder_;
};

TEST_F(EvalProgram, GivesTheSameFiguresInEveryFormat) {
  const Outcome json = run({"--from-predictions", kPredictions, "--draws", "50", "--format", "json"});
  ASSERT_EQ(json.code, 0) << json.err;
  const nlohmann::json document = nlohmann::json::parse(json.out);
  ASSERT_EQ(document["rows"].size(), 22U);
  EXPECT_EQ(document["gaps"].size(), 11U);
  const nlohmann::json& row = document["rows"][0];
  const Outcome csv = run({"--from-predictions", kPredictions, "--draws", "50", "--format", "csv"});
  EXPECT_THAT(csv.out, HasSubstr("set,condition,decoding,n,parse_failures,out_of_scale,plcc,"));
  EXPECT_THAT(csv.out, HasSubstr("\n\"random\",\"image\",\"greedy\",60,0," + row["out_of_scale"].dump() +
                                 "," + row["plcc"].dump() + "," + row["srcc"].dump()));
  EXPECT_THAT(csv.out, HasSubstr("\n\nset,plcc_gap,plcc_gap_ci_low,plcc_gap_ci_high,"));
  const Outcome table = run({"--from-predictions", kPredictions, "--draws", "50"});
  EXPECT_THAT(table.out,
              HasSubstr("fit4: y = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), start (max y, min y"));
  EXPECT_THAT(table.out, HasSubstr("mean of 11 sets"));
  EXPECT_THAT(table.out, HasSubstr("ROUGE-1 recall"));
}

TEST_F(EvalProgram, ConditionsAndGroups) {
  const std::string rows = folder_
                               .write("rows.jsonl", R"({"id": 1, "score": 1, "rating": 2, "type": "blur"}
{"id": 2, "score": 2, "rating": 2.5, "type": "blur"}
{"id": 3, "score": null, "rating": 2.5}
)")
                               .string();
  const Outcome outcome =
      run({"--from-predictions", rows, "--by", "type", "--by", "level", "--format", "json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("warning: 1 predictions have no score"));
  const nlohmann::json document = nlohmann::json::parse(outcome.out);
  ASSERT_EQ(document["rows"].size(), 1U);
  EXPECT_EQ(document["rows"][0]["set"], "rows");
  ASSERT_EQ(document["groups"].size(), 1U);
  EXPECT_EQ(document["groups"][0]["value"], "blur");
  const Outcome caption = run({"--from-predictions", rows, "--conditions", "caption", "--format", "json"});
  EXPECT_EQ(nlohmann::json::parse(caption.out)["rows"].size(), 0U);
}

TEST_F(EvalProgram, ErrorsAreOneLine) {
  expect_error(run({}), 2, "--from-predictions");
  expect_error(run({"--from-predictions", (folder_.path() / "absent.jsonl").string()}), 1, "absent.jsonl");
  expect_error(run({"--from-predictions", folder_.write("bad.jsonl", "{\"id\": 1}").string()}), 1,
               "bad.jsonl:1: rating is missing");
  expect_error(run({"--from-predictions", kPredictions, "--conditions", "image,image"}), 2, "--conditions");
  expect_error(run({"--from-predictions", kPredictions, "--conditions", "text"}), 2, "--conditions");
  expect_error(run({"--from-predictions", kPredictions, "--by", "colour"}), 2, "--by");
  expect_error(run({"--from-predictions", kPredictions, "--draws", "0"}), 2, "--draws");
}

}  // namespace
}  // namespace biqa
