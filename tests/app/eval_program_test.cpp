// SPDX-License-Identifier: Apache-2.0
// biqa_eval as a program: flags, formats, errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <signal.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "learner/checkpoint_store.h"
#include "model/config.h"
#include "model/lora.h"
#include "support/run_program.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::ContainsRegex;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Arguments = std::vector<std::string>;
using Outcome = testing::ProgramOutcome;

const std::string kProgram = (fs::path(BIQA_BIN_DIR) / "biqa_eval").string();
const fs::path kTiny = fs::path(BIQA_SOURCE_DIR) / "assets/tiny";
const std::string kQuickstart = BIQA_SOURCE_DIR "/configs/quickstart.yaml";
const std::string kPredictions = BIQA_SOURCE_DIR "/tests/fixtures/evaluation/predictions.jsonl";

class EvalProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kProgram))
      GTEST_SKIP() << kProgram << " is not built: build biqa_eval_program to run this";
  }
  Outcome run_words(const Arguments& words) const { return testing::run_program(folder_.path(), words); }
  Outcome run(const Arguments& more) const {
    Arguments words{kProgram};
    words.insert(words.end(), more.begin(), more.end());
    return run_words(words);
  }
  static void expect_error(const Outcome& outcome, int code, const std::string& part) {
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.errors().size(), 1U) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(part));
    EXPECT_EQ(outcome.out, "");
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  /// The first `count` images of the embedded test set. Two of them have a type and a reference.
  std::string manifest(std::size_t count) const {
    std::ifstream all(kTiny / "test.jsonl");
    std::string content;
    for (std::size_t i = 0; i < count; ++i) {
      std::string line;
      std::getline(all, line);
      nlohmann::json row = nlohmann::json::parse(line);
      row["image"] = (kTiny / row["image"].get<std::string>()).string();
      if (i < 2) row.update({{"type", "blur"}, {"reference", "one"}});
      content += row.dump() + "\n";
    }
    return folder_.write("images.jsonl", content).string();
  }
  /// Of the embedded model, which was made for these prompts.
  static Arguments evaluation(const std::string& data, const std::string& predictions,
                              const Arguments& more = {}) {
    Arguments words{"--config",  kQuickstart, "--data", data,       "--predictions",
                    predictions, "--draws",   "20",     "--format", "json"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  TemporaryFolder folder_;
};

std::size_t lines_in(const std::string& file) {
  if (!fs::exists(file)) return 0;
  const std::string content = file_content(file);
  return static_cast<std::size_t>(std::count(content.begin(), content.end(), '\n'));
}

TEST_F(EvalProgram, GivesTheSameFiguresInEveryFormat) {
  const Outcome json = run({"--from-predictions", kPredictions, "--draws", "50", "--format", "json"});
  ASSERT_EQ(json.code, 0) << json.err;
  const nlohmann::json document = nlohmann::json::parse(json.out);
  ASSERT_EQ(document["rows"].size(), 28U);
  EXPECT_EQ(document["gaps"].size(), 14U);
  const nlohmann::json& row = document["rows"][0];
  const Outcome csv = run({"--from-predictions", kPredictions, "--draws", "50", "--format", "csv"});
  EXPECT_THAT(csv.out, HasSubstr("set,condition,decoding,n,parse_failures,out_of_scale,plcc,"));
  EXPECT_THAT(csv.out, HasSubstr("\n\"random\",\"image\",\"greedy\",60,0," + row["out_of_scale"].dump() +
                                 "," + row["plcc"].dump() + "," + row["srcc"].dump()));
  EXPECT_THAT(csv.out, HasSubstr("\n\nset,decoding,plcc_gap,plcc_gap_ci_low,plcc_gap_ci_high,"));
  const Outcome table = run({"--from-predictions", kPredictions, "--draws", "50"});
  EXPECT_THAT(table.out,
              HasSubstr("fit4: y = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), start (max y, min y"));
  EXPECT_THAT(table.out, HasSubstr("mean of 12 sets"));
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
  EXPECT_THAT(outcome.err, HasSubstr("warning: no row has the field level"));
  expect_error(run({"--from-predictions", rows, "--conditions", "caption"}), 1, "no row has ratings for it");
  const std::string unscored =
      folder_.write("unscored.jsonl", R"({"id": 1, "mos": 1, "rating": 2})").string();
  Outcome none = run({"--from-predictions", unscored});
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.err, HasSubstr("no row has a score"));
  EXPECT_EQ(none.out, "");
}

TEST_F(EvalProgram, GroupsOfNumbersAreInTheirOrder) {
  std::string rows;
  for (const char* level : {"10", "2", "1.5", "low"})
    rows += nlohmann::json{{"id", level}, {"score", 3}, {"rating", 3}, {"level", level}}.dump() + "\n";
  const Outcome outcome = run({"--from-predictions", folder_.write("rows.jsonl", rows).string(), "--by",
                               "level", "--draws", "5", "--format", "json"});
  std::vector<std::string> values;
  const nlohmann::json document = nlohmann::json::parse(outcome.out);
  for (const auto& group : document["groups"]) values.push_back(group["value"]);
  EXPECT_THAT(values, ::testing::ElementsAre("1.5", "2", "10", "low"));
}

TEST_F(EvalProgram, WarnsOfScoresOutsideTheScaleAndOfUnknownAnswers) {
  const std::string rows =
      folder_
          .write("rows.jsonl", R"({"id": 1, "score": 1, "rating": 2, "human_text": "dark"}

{"id": 2, "score": 77.5, "rating": 2.5, "text": "dark", "human_text": "bright"}
{"id": 3, "score": 0.5, "rating": 2.5}
{"id": 4, "score": 5, "rating": 2.5}
)")
          .string();
  const Outcome outcome = run({"--from-predictions", rows, "--draws", "5"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("warning: 2 scores of " + rows +
                                     " lie outside 1 to 5, the first in line 3 (id '2': 77.5)"));
  EXPECT_EQ(outcome.err.find("lie outside"), outcome.err.rfind("lie outside"));
  EXPECT_THAT(outcome.err, HasSubstr("warning: 1 predictions have `human_text` but not `text`"));
  EXPECT_THAT(run({"--compare", rows, kPredictions}).err, HasSubstr("warning: 2 scores of " + rows));
  EXPECT_THAT(run({"--from-predictions", kPredictions, "--draws", "5"}).err, Not(HasSubstr("outside")));
}

TEST_F(EvalProgram, TheHelpGivesNoDefaultThatIsNone) {
  const std::string help = run({"--help"}).out;
  for (const char* flag : {"prompts", "greedy", "max-new-tokens", "max-pixels", "dtype", "device"}) {
    const std::size_t begin = help.find(std::string("\n  --") + flag);
    ASSERT_NE(begin, std::string::npos) << flag;
    const std::string part = help.substr(begin, help.find("\n  --", begin + 1) - begin);
    EXPECT_THAT(part, Not(HasSubstr("(default:"))) << flag;
    EXPECT_THAT(part, ContainsRegex("otherwise|unless|without a configuration")) << flag;
  }
}

TEST_F(EvalProgram, ErrorsAreOneLine) {
  expect_error(run({}), 2, "--model");
  expect_error(run({"--from-predictions", (folder_.path() / "absent.jsonl").string()}), 1, "absent.jsonl");
  expect_error(run({"--from-predictions", folder_.write("bad.jsonl", "{\"id\": 1}").string()}), 1,
               "bad.jsonl:1: rating is missing");
  expect_error(run({"--from-predictions", kPredictions, "--conditions", "image,image"}), 2, "--conditions");
  expect_error(run({"--from-predictions", kPredictions, "--conditions", "text"}), 2, "--conditions");
  expect_error(run({"--from-predictions", kPredictions, "--by", "colour"}), 2, "--by");
  expect_error(run({"--from-predictions", kPredictions, "--draws", "0"}), 2, "--draws");
  // The seed of the draws is another flag.
  expect_error(run({"--from-predictions", kPredictions, "--seed", "3"}), 2, "--seed");
  // Before hours of work, not after them.
  for (const char* flag : {"--predictions", "--like-pyiqa", "--judge-file"})
    expect_error(run({"--config", kQuickstart, flag, path("absent/file")}), 1, "there is no folder");
}

TEST_F(EvalProgram, InputsAreNotReplaced) {
  const std::string data = manifest(2), before = file_content(data);
  const std::string config =
      folder_.write("own.yaml", "base: " + kQuickstart + "\ndata: {eval: [images.jsonl]}\n").string();
  const std::string link = path("link.jsonl"), second_name = path("second_name.jsonl");
  fs::create_symlink(data, link);
  fs::create_hard_link(data, second_name);
  for (const std::string& other : {data, link, second_name, path("./images.jsonl")}) {
    SCOPED_TRACE(other);
    // Named by a flag, and by the configuration.
    expect_error(run(evaluation(data, other)), 2,
                 "flag --predictions is '" + other + "': this would replace");
    expect_error(run({"--config", config, "--like-pyiqa", other}), 2, "would replace the input");
  }
  expect_error(
      run({"--config", kQuickstart, "--data", (kTiny / "test.jsonl").string(), data, "--judge-file", data}),
      2, "would replace the input");
  const std::string predictions = folder_.write("b2.jsonl", file_content(kPredictions)).string();
  const std::string lexicon = folder_.write("words.txt", "sharp").string();
  for (const char* flag : {"--judge-file", "--like-pyiqa"}) {
    expect_error(run({"--from-predictions", predictions, flag, predictions}), 2, "would replace the input");
    expect_error(run({"--from-predictions", kPredictions, "--lexicon", lexicon, flag, lexicon}), 2,
                 "would replace the input");
  }
  EXPECT_EQ(file_content(predictions), file_content(kPredictions));
  expect_error(run({"--config", config, "--judge-file", config}), 2, "would replace the input");
  // Two results in one file, which is not there yet.
  expect_error(
      run({"--from-predictions", kPredictions, "--judge-file", path("new"), "--like-pyiqa", path("./new")}),
      2, "--like-pyiqa and --judge-file both name");
  EXPECT_FALSE(fs::exists(path("new")));
  EXPECT_EQ(file_content(data), before);
}

TEST_F(EvalProgram, SettingsOfTheConfigurationAreReplaced) {
  const std::string data = manifest(2), file = path("out.jsonl");
  const auto texts = [&](const Arguments& more) {
    fs::remove(file);
    EXPECT_EQ(run(evaluation(data, file, more)).code, 0);
    std::vector<std::size_t> lengths;
    std::istringstream lines(file_content(file));
    for (std::string line; std::getline(lines, line);)
      lengths.push_back(nlohmann::json::parse(line)["text"].get<std::string>().size());
    return lengths;
  };
  const std::vector<std::size_t> whole = texts({}), cut = texts({"--set", "rollout.max_new_tokens=4"});
  ASSERT_EQ(cut.size(), 2U);
  EXPECT_LT(cut[0], whole[0]);
  EXPECT_EQ(texts({"--set", "rollout.max_new_tokens=8", "--set", "rollout.max_new_tokens=4"}), cut);
  expect_error(run(evaluation(data, file, {"--set", "rollout.tokens=8"})), 2, "rollout.tokens");
  expect_error(run({"--model", (kTiny / "model").string(), "--data", data, "--set", "model.dtype=f32"}), 2,
               "there is no configuration to change");
  expect_error(run({"--from-predictions", kPredictions, "--set", "model.dtype=f32"}), 2,
               "exclude each other");
}

/// Of the embedded model, with other numbers for each seed. Small, so that the answers stay short.
void write_adapter(const fs::path& file, std::uint64_t seed) {
  Lora lora = initial_lora(
      std::make_shared<LoraLayout>(ModelConfig::load(kTiny / "model"), LoraSpec{.rank = 1, .alpha = 1}),
      seed);
  write_adapter_h5(file, lora, {});
}

// Each is changed alone, beside a run that samples with an adapter.
TEST_F(EvalProgram, EverySettingThatAnswersDependOnIsComparedBeforeGoingOn) {
  const std::string data = manifest(40), file = path("out.jsonl"), part = file + ".part";
  const fs::path model = folder_.path() / "model", copy = folder_.path() / "copy";
  fs::copy(kTiny / "model", model);
  fs::copy(kTiny / "model", copy);
  write_adapter(path("adapter.h5"), 1);
  write_adapter(path("other.h5"), 2);
  // Of two flags with one name the last would count, so a flag is replaced.
  const auto flags = [&](const Arguments& more, const std::string& without = "") {
    Arguments words = evaluation(data, file, {"--batch", "1"});
    for (const auto& [flag, value] : {std::pair<std::string, std::string>("--model", model.string()),
                                      {"--adapter", path("adapter.h5")},
                                      {"--seed", "0"}})
      if (flag != without) words.insert(words.end(), {flag, value});
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  testing::ProgramSurroundings stop;
  stop.meanwhile = [&](pid_t child) {
    if (lines_in(part) >= 2) ::kill(child, SIGTERM);
  };
  Arguments words{kProgram};
  const Arguments first = flags({});
  words.insert(words.end(), first.begin(), first.end());
  ASSERT_EQ(testing::run_program(folder_.path(), words, stop).code, 75);
  const std::string kept = file_content(part);
  for (const char* setting :
       {"prompts.system=Other.", "prompts.user=Other.", "prompts.stage2_system=Other.",
        "prompts.stage2_user=Other {caption}.", "prompts.profile=released", "rollout.max_new_tokens=9",
        "rollout.stage2_max_new_tokens=9", "stage2.input=caption+reasoning", "stage2.leak_guard=off",
        "model.max_pixels=6272", "model.min_pixels=6272", "model.dtype=bf16"}) {
    SCOPED_TRACE(setting);
    expect_error(run(flags({"--set", setting})), 1, "other settings");
  }
  expect_error(run(flags({"--conditions", "image"})), 1, "other settings");
  expect_error(run(flags({"--repeats", "2"})), 1, "other settings");
  expect_error(run(flags({"--seed", "1"}, "--seed")), 1, "other settings");
  expect_error(run(flags({}, "--seed")), 1, "other settings");  // greedy, and the seed is still 0
  expect_error(run(flags({"--adapter", path("other.h5")}, "--adapter")), 1, "other settings");
  expect_error(run(flags({}, "--adapter")), 1, "other settings");
  expect_error(run(flags({"--model", copy.string()}, "--model")), 1, "other settings");
  // Other weights in the same folder: the first number, which follows the header and its length.
  const fs::path weights = model / "model.safetensors";
  const std::string numbers = file_content(weights);
  std::string changed = numbers;
  std::uint64_t header = 0;
  std::memcpy(&header, numbers.data(), sizeof header);
  changed[sizeof header + header] = static_cast<char>(changed[sizeof header + header] ^ 1);
  std::ofstream(weights, std::ios::binary) << changed;
  expect_error(run(flags({})), 1, "other settings");
  std::ofstream(weights, std::ios::binary) << numbers;
  EXPECT_EQ(file_content(part), kept);
  // Answers do not depend on the rest.
  EXPECT_EQ(run(flags({"--set", "stage2.leak_guard=strip", "--set", "train.seed=7"})).code, 0);
}

TEST_F(EvalProgram, TheModelAndItsPredictionsGiveTheSameDocument) {
  const std::string data = manifest(6), file = path("out.jsonl");
  const Outcome whole = run(evaluation(data, file, {"--by", "type", "--judge-file", path("judge.jsonl")}));
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_EQ(lines_in(file), 6U);
  EXPECT_FALSE(fs::exists(file + ".part"));
  const nlohmann::json document = nlohmann::json::parse(whole.out);
  ASSERT_EQ(document["rows"].size(), 2U);
  EXPECT_EQ(document["rows"][0]["set"], "test");
  EXPECT_EQ(document["rows"][0]["decoding"], "greedy");
  EXPECT_EQ(document["rows"][0]["n"], 6);
  EXPECT_EQ(document["rows"][0]["parse_failures"], 0);
  EXPECT_FALSE(document["rows"][0]["plcc"].is_null());
  EXPECT_EQ(document["rows"][0]["texts"]["n"], 6);
  EXPECT_EQ(document["groups"].size(), 2U);
  EXPECT_EQ(lines_in(path("judge.jsonl")), 12U);
  const Outcome again =
      run({"--from-predictions", file, "--draws", "20", "--by", "type", "--format", "json"});
  EXPECT_EQ(again.out, whole.out);
  EXPECT_EQ(again.err, "");

  // One at a time and with more threads, and on three ranks: the same file, byte for byte.
  const std::string predictions = file_content(file);
  EXPECT_EQ(run(evaluation(data, file, {"--batch", "1", "--threads", "2"})).code, 0);
  EXPECT_EQ(file_content(file), predictions);
  if (run_words({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  Arguments words{"mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "3", kProgram};
  const Arguments flags = evaluation(data, file, {"--by", "type"});
  words.insert(words.end(), flags.begin(), flags.end());
  fs::remove(file);
  const Outcome ranks = run_words(words);
  EXPECT_EQ(ranks.code, 0) << ranks.err;
  EXPECT_EQ(ranks.out, whole.out);
  EXPECT_EQ(file_content(file), predictions);
}

TEST_F(EvalProgram, RepeatsAreSamples) {
  const std::string data = manifest(4), file = path("out.jsonl");
  const Outcome outcome = run(evaluation(data, file, {"--repeats", "3", "--seed", "7"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const nlohmann::json row = nlohmann::json::parse(outcome.out)["rows"][0];
  EXPECT_EQ(row["decoding"], "sampled");
  EXPECT_EQ(row["n"], 12);
  EXPECT_EQ(row["repeats"], 3);
  EXPECT_GT(row["instability"], 0);
  EXPECT_EQ(run({"--from-predictions", file, "--draws", "20", "--format", "json"}).out, outcome.out);
  const std::string predictions = file_content(file);
  EXPECT_EQ(run(evaluation(data, file, {"--repeats", "3", "--seed", "7", "--batch", "3"})).code, 0);
  EXPECT_EQ(file_content(file), predictions);
  // The first repeat is the answer of a single sample, and another seed gives others.
  EXPECT_EQ(run(evaluation(data, file, {"--seed", "7"})).code, 0);
  EXPECT_EQ(file_content(file).substr(0, 200), predictions.substr(0, 200));
  EXPECT_EQ(run(evaluation(data, file, {"--repeats", "3", "--seed", "8"})).code, 0);
  EXPECT_NE(file_content(file), predictions);
  expect_error(run(evaluation(data, file, {"--repeats", "3", "--greedy"})), 2, "--repeats");
}

TEST_F(EvalProgram, OneConditionAlone) {
  const std::string data = manifest(3), file = path("out.jsonl");
  const Outcome outcome = run(evaluation(data, file, {"--conditions", "image"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["rows"].size(), 1U);
  EXPECT_THAT(file_content(file), Not(HasSubstr("caption_rating")));
  EXPECT_EQ(run({"--from-predictions", file, "--draws", "20", "--format", "json"}).out, outcome.out);
}

TEST_F(EvalProgram, GoesOnWhereItWasStopped) {
  const std::string data = manifest(40), file = path("out.jsonl"), part = file + ".part";
  // The last image is a file of this test. Of the first one there is a copy.
  const std::string own = path("own.webp");
  const std::string rows = file_content(data);
  nlohmann::json last = nlohmann::json::parse(rows.substr(rows.rfind("\n{") + 1));
  fs::copy_file(last["image"].get<std::string>(), own);
  const std::string twin = path("twin.webp");
  fs::copy_file(nlohmann::json::parse(rows.substr(0, rows.find('\n')))["image"].get<std::string>(), twin);
  last["image"] = own;
  folder_.write("images.jsonl", rows.substr(0, rows.rfind("\n{") + 1) + last.dump() + "\n");
  testing::ProgramSurroundings stop;
  stop.meanwhile = [&](pid_t child) {
    if (lines_in(part) >= 3) ::kill(child, SIGTERM);
  };
  Arguments words{kProgram};
  const Arguments flags = evaluation(data, file, {"--batch", "1"});
  words.insert(words.end(), flags.begin(), flags.end());
  const Outcome stopped = testing::run_program(folder_.path(), words, stop);
  EXPECT_EQ(stopped.code, 75) << stopped.err;
  EXPECT_EQ(stopped.out, "");
  EXPECT_FALSE(fs::exists(file));
  ASSERT_GE(lines_in(part), 3U);
  EXPECT_THAT(stopped.err, HasSubstr("the same command goes on"));
  // With other settings it must not go on.
  expect_error(run(evaluation(data, file, {"--seed", "1"})), 1, "other settings");
  // Nor with other data, such as another image under an id.
  for (const auto& [key, value] : {std::pair<std::string, nlohmann::json>("score", 1.25),
                                   {"image", twin},
                                   {"id", "another"},
                                   {"set", "another"},
                                   {"text", {{"description", "another"}}},
                                   {"reference", "another"},
                                   {"level", "5"},
                                   {"type", "noise"}}) {
    SCOPED_TRACE(key);
    std::istringstream lines(file_content(data));
    std::string changed, line;
    while (std::getline(lines, line)) {
      nlohmann::json row = nlohmann::json::parse(line);
      if (changed.empty()) row[key] = value;
      changed += row.dump() + "\n";
    }
    expect_error(run(evaluation(folder_.write("changed.jsonl", changed).string(), file)), 1,
                 "other settings");
  }
  // Nor with an image that has been replaced.
  const std::string bytes = file_content(own);
  std::ofstream(own, std::ios::binary | std::ios::app) << "more";
  expect_error(run(evaluation(data, file)), 1, "other settings");
  std::ofstream(own, std::ios::binary) << bytes;
  // A killed machine may leave half a line.
  const std::string kept = file_content(part);
  std::ofstream(part, std::ios::app) << "{\"id\": \"test-00";
  const Outcome finished = run(evaluation(data, file));
  ASSERT_EQ(finished.code, 0) << finished.err;
  EXPECT_FALSE(fs::exists(part));
  EXPECT_EQ(lines_in(file), 40U);
  // Earlier predictions were not computed again: a changed one is taken as it is.
  const std::string first =
      kept.substr(kept.find('\n') + 1, kept.find('\n', kept.find('\n') + 1) - kept.find('\n') - 1);
  nlohmann::ordered_json changed = nlohmann::ordered_json::parse(first);
  changed["rating"] = 4.75;
  folder_.write("out.jsonl.part", kept.substr(0, kept.find('\n') + 1) + changed.dump() + "\n");
  const Outcome continued = run(evaluation(data, path("out.jsonl")));
  EXPECT_THAT(file_content(file), HasSubstr("\"rating\":4.75"));
  EXPECT_NE(continued.out, finished.out);
}

TEST_F(EvalProgram, ImagesThatCannotBeReadAreReported) {
  const std::string good = manifest(3);
  const std::string bytes = file_content(kTiny / "sample_cat.png");
  folder_.write("half.png", bytes.substr(0, bytes.size() / 2));
  const std::string data =
      folder_
          .write("mixed.jsonl",
                 "{\"id\": \"half\", \"image\": \"half.png\", \"score\": 3, \"set\": \"test\"}\n" +
                     file_content(good))
          .string();
  const Outcome outcome = run(evaluation(data, path("out.jsonl"), {"--batch", "1"}));
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  EXPECT_EQ(outcome.errors().size(), 1U) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("half.png"));
  EXPECT_THAT(outcome.err, HasSubstr("1 of 4 images could not be evaluated"));
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["rows"][0]["n"], 3);
  expect_error(run(evaluation(data, path("out.jsonl"), {"--data", data})), 2, "twice");
  expect_error(run({"--model", path("absent"), "--data", good}), 1, "absent");
  expect_error(run({"--data", good}), 2, "--model");
  expect_error(run({"--config", kQuickstart, "--from-predictions", good}), 2, "exclude each other");
}

TEST_F(EvalProgram, ComparesTwoFiles) {
  std::string a, b;
  for (int i = 0; i < 8; ++i) {
    const double score = 1 + 0.5 * i;
    const auto line = [&](double rating) {
      return nlohmann::json{{"id", i}, {"set", "s"}, {"score", score}, {"rating", rating}}.dump() + "\n";
    };
    a += line(score + (i % 2 == 0 ? 0.125 : -0.125));
    if (i < 7) b += line(score + 0.5 * (i % 3) - (i == 0 ? 0 : 0.25));
  }
  const std::string first = folder_.write("a.jsonl", a).string(),
                    second = folder_.write("b.jsonl", b).string();
  const Outcome outcome = run({"--compare", first, second, "--format", "json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const nlohmann::json row = nlohmann::json::parse(outcome.out)["comparison"].at(0);
  EXPECT_EQ(row["n"], 7);
  EXPECT_EQ(row["left_out"], 1);
  EXPECT_EQ(row["closer_a"], 6);
  EXPECT_EQ(row["closer_b"], 1);
  EXPECT_NEAR(row["sign_test_p"].get<double>(), 2 * (1 + 7) / 128.0, 1e-12);
  EXPECT_DOUBLE_EQ(row["mae_a"].get<double>(), 0.125);
  EXPECT_LT(row["mae_difference_ci"][0], row["mae_difference"]);
  EXPECT_LT(row["mae_difference"], row["mae_difference_ci"][1]);
  // With itself nothing differs, and B first turns the signs.
  const nlohmann::json same =
      nlohmann::json::parse(run({"--compare", first, first, "--format", "json"}).out)["comparison"][0];
  EXPECT_EQ(same["plcc_difference"], 0.0);
  EXPECT_EQ(same["plcc_difference_ci"], nlohmann::json::array({0.0, 0.0}));
  EXPECT_EQ(same["equal"], 8);
  EXPECT_EQ(same["sign_test_p"], 1.0);
  const nlohmann::json turned =
      nlohmann::json::parse(run({"--compare", second, first, "--format", "json"}).out)["comparison"][0];
  EXPECT_EQ(turned["mae_difference"].get<double>(), -row["mae_difference"].get<double>());
  EXPECT_EQ(turned["left_out"], 1);
  EXPECT_THAT(run({"--compare", first, second}).out, HasSubstr("sign test p = 0.125"));
  EXPECT_THAT(run({"--compare", first, second, "--format", "csv"}).out, HasSubstr("mae_difference_ci_low"));

  expect_error(run({"--compare", first}), 2, "two files");
  const std::string other =
      folder_.write("c.jsonl", R"({"id": 1, "set": "s", "score": 9, "rating": 2})").string();
  expect_error(run({"--compare", first, other}), 1, "its scores are 1.5 and 9");
  // Rows of B without a score are no rows of the comparison.
  const std::string unscored = folder_
                                   .write("e.jsonl", R"({"id": 0, "set": "s", "score": null, "rating": 2})"
                                                     "\n"
                                                     R"({"id": 1, "set": "s", "score": 1.5, "rating": 2})")
                                   .string();
  const Outcome some = run({"--compare", first, unscored, "--format", "json"});
  EXPECT_THAT(some.err, HasSubstr("without a score are left out: 1"));
  EXPECT_EQ(nlohmann::json::parse(some.out)["comparison"][0]["n"], 1);
  EXPECT_EQ(nlohmann::json::parse(some.out)["comparison"][0]["left_out"], 7);
  const std::string disjoint =
      folder_.write("f.jsonl", R"({"id": "x", "set": "s", "score": 2, "rating": 2})").string();
  expect_error(run({"--compare", first, disjoint}), 1, "has a rating in both");
  // Files of other programs may name no set.
  const std::string unnamed = R"({"id": 1, "score": 2, "rating": 2})";
  EXPECT_EQ(run({"--compare", folder_.write("m1.jsonl", unnamed).string(),
                 folder_.write("m2.jsonl", unnamed).string()})
                .code,
            0);
  const std::string foreign =
      folder_.write("d.jsonl", R"({"id": 1, "set": "t", "score": 9, "rating": 2})").string();
  expect_error(run({"--compare", first, foreign}), 1, "no set in common");
}

TEST_F(EvalProgram, TablesLikePyiqaAndRowsForAJudge) {
  const std::string rows =
      folder_
          .write("rows.jsonl",
                 R"({"id": 1, "set": "s", "score": 1, "rating": 3, "text": "dark", "human_text": "too dark"}
{"id": 2, "set": "s", "score": 2, "rating": 2, "text": "dim", "human_text": "fine"}
{"id": 3, "set": "s", "score": 4, "rating": 1.5, "text": "ok"}
{"id": 1, "set": "t", "score": 4, "rating": 1.5, "text": "x", "human_text": "alone"}
)")
          .string();
  const Outcome outcome =
      run({"--from-predictions", rows, "--like-pyiqa", path("p.csv"), "--judge-file", path("j.jsonl")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::string table = file_content(path("p.csv"));
  EXPECT_THAT(table, StartsWith("Metric name,\"s(PLCC/SRCC/KRCC)\",\"s(biqa: PLCC/SRCC/KRCC)\","
                                "\"t(PLCC/SRCC/KRCC)\",\"t(biqa: PLCC/SRCC/KRCC)\"\n"
                                "biqa image,0.9286/1.0000/1.0000,-0.92857142857142"));
  EXPECT_THAT(table, EndsWith("/-1,nan/nan/nan,nan/nan/nan\n"));
  std::vector<nlohmann::json> lines;
  std::ifstream file(path("j.jsonl"));
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 5U);
  EXPECT_EQ(lines[0]["pair"], "own");
  EXPECT_EQ(lines[0]["human_text"], "too dark");
  EXPECT_EQ(lines[1]["pair"], "other");
  EXPECT_EQ(lines[1]["answer"], "dark");
  EXPECT_EQ(lines[1]["human_text"], "fine");
  EXPECT_EQ(lines[4]["pair"], "own");  // the only text of its set
}

TEST_F(EvalProgram, AnswersWithoutCaptionHaveOneCondition) {
  const std::string data = manifest(2), file = path("out.jsonl");
  const std::string config = folder_
                                 .write("own.yaml", "model: {path: " + (kTiny / "model").string() +
                                                        ", dtype: f32, max_pixels: 12544}\n"
                                                        "prompts: {profile: answer-number, user: Rate.}\n"
                                                        "stage2: {enabled: false}\n"
                                                        "rollout: {max_new_tokens: 8}\n")
                                 .string();
  EXPECT_THAT(run({"--config", config, "--data", data}).err, HasSubstr("note: without --predictions"));
  const Outcome outcome =
      run({"--config", config, "--data", data, "--predictions", file, "--format", "json"});
  EXPECT_THAT(outcome.err, Not(HasSubstr("note: without --predictions")));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const nlohmann::json document = nlohmann::json::parse(outcome.out);
  ASSERT_EQ(document["rows"].size(), 1U);
  EXPECT_EQ(document["rows"][0]["parse_failures"], 2);  // the embedded model knows no such tags
  EXPECT_EQ(run({"--from-predictions", file, "--format", "json"}).out, outcome.out);
  expect_error(run({"--config", config, "--data", data, "--conditions", "caption"}), 2, "no caption");
}

TEST_F(EvalProgram, SimilarityAndPolarity) {
  const auto texts = [&](const Arguments& more) {
    Arguments words{"--from-predictions", kPredictions, "--draws", "20", "--format", "json"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out)["rows"][0]["texts"];
  };
  const nlohmann::json plain = texts({});
  EXPECT_TRUE(plain["similarity"].is_null());
  EXPECT_TRUE(plain["polarity"].is_number());
  const nlohmann::json with = texts({"--similarity-model", BIQA_SOURCE_DIR "/tests/fixtures/sentence"});
  EXPECT_TRUE(with["similarity_excess"].is_number());
  EXPECT_EQ(with["polarity"], plain["polarity"]);
  const std::string lexicon = folder_.write("own.txt", "subject +1 unicorn\n").string();
  EXPECT_TRUE(texts({"--lexicon", lexicon})["polarity"].is_null());

  expect_error(run({"--from-predictions", kPredictions, "--similarity-model", path("nowhere")}), 1,
               "nowhere");
  expect_error(run({"--compare", kPredictions, kPredictions, "--lexicon", lexicon}), 2, "exclude each other");
}

}  // namespace
}  // namespace biqa
