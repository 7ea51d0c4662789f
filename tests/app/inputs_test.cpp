// SPDX-License-Identifier: Apache-2.0
// The programs on folders and files as people have them: clones without Git LFS, folders with more than pictures in them,
// damaged pictures, limits other than a model's own.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "io/hdf5.h"
#include "learner/checkpoint_store.h"
#include "run/run_folder.h"
#include "support/run_program.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;
using Outcome = testing::ProgramOutcome;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const fs::path kTiny = fs::path(BIQA_SOURCE_DIR) / "assets/tiny";
const fs::path kPictures = fs::path(BIQA_SOURCE_DIR) / "tests/fixtures/images";
constexpr const char* kPointer =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 7635914336\n";

class Inputs : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"biqa_learner", "biqa_score", "biqa_trace"}) {
      if (!fs::exists(program(name)))
        GTEST_SKIP() << program(name) << " is not built: build the target " << name << "_program to run this";
    }
  }

  static std::string program(const std::string& name) { return (fs::path(BIQA_BIN_DIR) / name).string(); }
  fs::path path(const std::string& name) const { return folder_.path() / name; }

  Outcome score(const Arguments& more, const fs::path& model = kTiny / "model") const {
    Arguments words{
        program("biqa_score"), "--model", model.string(), "--max-new-tokens", "4", "--format", "json"};
    words.insert(words.end(), more.begin(), more.end());
    return testing::run_program(folder_.path(), words);
  }
  Outcome trace(const fs::path& model, const Arguments& more = {}) const {
    Arguments words{program("biqa_trace"),    "--model", model.string(), "--prompt", "x", "--out",
                    path("trace.h5").string()};
    words.insert(words.end(), more.begin(), more.end());
    return testing::run_program(folder_.path(), words);
  }
  /// Steps of two pictures from a manifest of these; `launcher` stands before the program.
  Outcome learn(const std::vector<fs::path>& pictures, const Arguments& more, Arguments launcher = {},
                const testing::ProgramSurroundings& surroundings = {}) const {
    Arguments& words = launcher;
    words.insert(words.end(), {program("biqa_learner"), "--config",
                               (fs::path(BIQA_SOURCE_DIR) / "configs/quickstart.yaml").string()});
    Arguments sets{"data.train=" + manifest("train.jsonl", pictures),
                   "data.eval=[]",
                   "train.out=" + path("run").string(),
                   "train.steps=2",
                   "train.progress=false",
                   "rollout.images_per_step=2",
                   "rollout.group_size=2",
                   "model.threads=1"};
    sets.insert(sets.end(), more.begin(), more.end());
    for (const std::string& set : sets) words.insert(words.end(), {"--set", set});
    return testing::run_program(folder_.path(), words, surroundings);
  }
  std::string manifest(const std::string& name, const std::vector<fs::path>& pictures) const {
    std::string lines;
    for (const fs::path& picture : pictures) {
      const nlohmann::json row{{"id", picture.filename().string()},
                               {"image", fs::absolute(picture).string()},
                               {"score", 1.0 + 0.5 * static_cast<double>(lines.size() % 7)}};
      lines += row.dump() + "\n";
    }
    return folder_.write(name, lines).string();
  }
  /// A picture of the kit, without the last part of its file.
  fs::path cut(const std::string& name, double kept = 0.7) const {
    const std::string whole = file_content(kPictures / name);
    return folder_.write("cut_" + name,
                         whole.substr(0, static_cast<std::size_t>(static_cast<double>(whole.size()) * kept)));
  }
  fs::path copy_model() const {
    const fs::path copy = path("model");
    fs::remove_all(copy);
    fs::copy(kTiny / "model", copy, fs::copy_options::recursive);
    return copy;
  }
  static void expect_error(const Outcome& outcome, int code, const std::string& part) {
    EXPECT_FALSE(outcome.hung);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.errors().size(), 1U) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(part));
  }

  TemporaryFolder folder_;
};

TEST_F(Inputs, GitLfsPointersAreNamedWithWhatToRun) {
  for (const char* name : {"model.safetensors", "tokenizer.json", "config.json", "preprocessor_config.json",
                           "processor_config.json"}) {
    SCOPED_TRACE(name);
    const fs::path model = copy_model();
    if (std::string(name) == "preprocessor_config.json")
      fs::remove(model / "processor_config.json");  // goes first
    folder_.write(std::string("model/") + name, kPointer);
    const Outcome outcome = trace(model);
    expect_error(outcome, 1, name);
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("Git LFS pointer"), HasSubstr("git lfs pull")));
  }
  // vocab.json and merges.txt are read where there is no tokenizer.json.
  for (const char* name : {"vocab.json", "merges.txt"}) {
    SCOPED_TRACE(name);
    const fs::path model = copy_model();
    fs::remove(model / "tokenizer.json");
    folder_.write(std::string("model/") + name, kPointer);
    expect_error(trace(model), 1, "Git LFS pointer");
  }
  const fs::path model = copy_model();
  fs::remove(model / "model.safetensors");
  folder_.write("model/model.safetensors.index.json", kPointer);
  expect_error(trace(model), 1, "Git LFS pointer");
}

TEST_F(Inputs, GitLfsPointersAsAdaptersAndPictures) {
  folder_.write("adapter/adapter_config.json", R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4,
    "target_modules": ["q_proj"], "base_model_name_or_path": "x"})");
  folder_.write("adapter/adapter_model.safetensors", kPointer);
  expect_error(trace(kTiny / "model", {"--adapter", path("adapter").string()}), 1, "Git LFS pointer");
  expect_error(score({folder_.write("a.jpg", kPointer).string()}), 3, "Git LFS pointer");
}

TEST_F(Inputs, WhatElseIsInAFolderIsCountedAndNamed) {
  const fs::path folder = path("photos");
  fs::create_directories(folder / "holiday");
  fs::create_directories(folder / ".thumbnails");
  fs::create_directories(folder / "__MACOSX");
  fs::copy_file(kPictures / "chroma_420.jpg", folder / "a.JFIF");
  fs::copy_file(kPictures / "chroma_420.jpg", folder / "b.jpe");
  for (const char* name :
       {"photos/x.gif", "photos/y.heic", "photos/notes.txt", "photos/._a.jpg", "photos/.DS_Store"})
    folder_.write(name, "GIF89a");
  const Outcome outcome = score({folder.string()});
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("a.JFIF"), HasSubstr("b.jpe")));
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("files .gif: 1 (x.gif)"), HasSubstr("files .heic: 1 (y.heic)"),
                    HasSubstr("files .txt: 1 (notes.txt)"), HasSubstr("subfolders: 1 (holiday)")));
  EXPECT_THAT(outcome.err, AllOf(Not(HasSubstr("._a")), Not(HasSubstr("DS_Store")), Not(HasSubstr("MACOSX")),
                                 Not(HasSubstr("thumbnails"))));
}

TEST_F(Inputs, AFolderWithoutPicturesSaysWhatIsThere) {
  for (int i = 0; i < 7; ++i) folder_.write(fmt::format("photos/{}.gif", i), "GIF89a");
  fs::create_directories(path("photos/june"));
  expect_error(score({path("photos").string()}), 1,
               "files .gif: 7 (0.gif, 1.gif, 2.gif, 3.gif, 4.gif and 2 more); subfolders: 1 (june)");
}

TEST_F(Inputs, NamesWithControlCharactersStayOnOneLine) {
  const std::string name = "two\nlines\x1B.png", shown = "two\\nlines\\x1b.png";
  fs::copy_file(kTiny / "sample_cat.png", path(name));
  const Outcome outcome = testing::run_program(
      folder_.path(), {program("biqa_score"), "--model", (kTiny / "model").string(), "--max-new-tokens", "4",
                       path(name).string(), path("absent\n.png").string()});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("cannot read " + path("absent\\n.png").string()),
                                 HasSubstr(path(shown).string()), Not(HasSubstr("two\n"))));
  EXPECT_EQ(outcome.errors().size(), 2U) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr(shown), Not(HasSubstr("lines\x1B"))));
}

TEST_F(Inputs, NamesThatAreNotUtf8AreRepairedInJson) {
  for (const char* name : {"caf\xE9.png", "th\xE9.png"}) fs::copy_file(kTiny / "sample_cat.png", path(name));
  const Outcome outcome = score({path("caf\xE9.png").string(), path("th\xE9.png").string()});
  std::istringstream lines(outcome.out);
  std::vector<std::string> names;
  for (std::string line; std::getline(lines, line);)
    names.push_back(fs::path(nlohmann::json::parse(line).at("image").get<std::string>()).filename());
  EXPECT_THAT(names, ::testing::ElementsAre("caf\xEF\xBF\xBD.png", "th\xEF\xBF\xBD.png"));
  const std::size_t warning = outcome.err.find("is not UTF-8");
  ASSERT_NE(warning, std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("is not UTF-8", warning + 1), std::string::npos) << outcome.err;
}

TEST_F(Inputs, DamagedPicturesAreLeftOutWhereAskedFor) {
  const std::vector<fs::path> pictures{kTiny / "sample_cat.png",      cut("chroma_420.jpg"), cut("rgb.png"),
                                       kTiny / "sample_cat_dark.png", cut("lossy.webp"),     cut("rgb.tif")};
  const Arguments evaluation{"data.eval=[" + manifest("test.jsonl", pictures) + "]",
                             "train.eval_decodings=[greedy]", "train.eval_images=2", "data.skip_bad=true"};
  for (const int ranks : {1, 3}) {
    SCOPED_TRACE(ranks);
    fs::remove_all(path("run"));
    const Arguments launcher{"mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
                             "-np",    std::to_string(ranks)};
    const Outcome outcome = learn(pictures, evaluation, ranks == 1 ? Arguments{} : launcher);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    for (const char* name : {"cut_chroma_420.jpg", "cut_rgb.png", "cut_lossy.webp", "cut_rgb.tif"})
      EXPECT_THAT(outcome.err, HasSubstr(name));
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("4 of 6 rows of " + path("train.jsonl").string()),
                                   HasSubstr("4 of 6 rows of " + path("test.jsonl").string())));
    const MetricsFile metrics = read_metrics(path("run") / "metrics.jsonl");
    EXPECT_EQ(metrics.steps.size(), 2U);
    ASSERT_FALSE(metrics.evaluations.empty());
    EXPECT_EQ(metrics.evaluations.front().n, 2);
  }
}

TEST_F(Inputs, DamagedPicturesAreFoundBeforeTheFirstStep) {
  const fs::path damaged = cut("chroma_444.jpg");
  const std::vector<fs::path> pictures{kTiny / "sample_cat.png", kTiny / "sample_cat_dark.png", damaged};
  const Outcome outcome = learn(pictures, {});
  expect_error(outcome, 1, "train.jsonl:3: cannot read image " + damaged.string());
  EXPECT_THAT(outcome.err, HasSubstr("data.skip_bad"));
  EXPECT_FALSE(fs::exists(path("run") / "metrics.jsonl"));
  // In a set where nothing is left, leaving out is no help.
  expect_error(learn({pictures[0], pictures[1]},
                     {"data.skip_bad=true", "data.eval=[" + manifest("test.jsonl", {damaged}) + "]"}),
               1, "none of its images can be read");
}

TEST_F(Inputs, DamageThatComesLaterKeepsTheLastStep) {
  std::vector<fs::path> pictures;
  for (int i = 0; i < 60; ++i) {
    pictures.push_back(path(fmt::format("{}.png", i)));
    fs::copy_file(kTiny / "sample_cat.png", pictures.back());
  }
  bool damaged = false;
  testing::ProgramSurroundings surroundings;
  surroundings.meanwhile = [&](pid_t) {
    if (damaged || file_content(path("run") / "metrics.jsonl").empty()) return;
    for (const fs::path& picture : pictures) fs::resize_file(picture, 1000);
    damaged = true;
  };
  const Outcome outcome = learn(pictures, {"train.steps=30", "checkpoint.every=0"}, {}, surroundings);
  expect_error(outcome, 1, "cannot read image");
  const MetricsFile metrics = read_metrics(path("run") / "metrics.jsonl");
  ASSERT_FALSE(metrics.steps.empty());
  const auto saved = CheckpointStore(path("run") / "checkpoints").newest_first();
  ASSERT_EQ(saved.size(), 1U) << outcome.err;
  EXPECT_EQ(saved.front().filename(), checkpoint_name(metrics.steps.back().step));
  EXPECT_TRUE(CheckpointStore::find_damage(saved.front()).empty());
}

TEST_F(Inputs, LimitsAreThoseThatAreAskedFor) {
  const std::vector<fs::path> pictures{kTiny / "sample_cat.png", kTiny / "sample_cat_dark.png"};
  const auto grid = [](const fs::path& file, const std::string& dataset) {
    return Hdf5File(file).read_i64(dataset);
  };
  const std::string of_step = "trajectories/00000/image_grid_thw";
  // The folder's own are 3136 and 12544.
  const Outcome large = learn(pictures, {"model.max_pixels=25088", "model.min_pixels=25088",
                                         "train.dump_steps=[1]", "train.steps=1"});
  ASSERT_EQ(large.code, 0) << large.err;
  const std::vector<std::int64_t> patches = grid(path("run/dumps/step-000001.h5"), of_step);
  EXPECT_GT(patches[1] * patches[2] * 14 * 14, 12544);
  EXPECT_LE(patches[1] * patches[2] * 14 * 14, 25088);
  // config.yaml tells what was used, also of limits that are the folder's.
  EXPECT_THAT(file_content(path("run/config.yaml")), HasSubstr("max_pixels: 25088"));
  fs::remove_all(path("run"));
  const Outcome small = learn(
      pictures, {"model.max_pixels=1600", "model.min_pixels=784", "train.dump_steps=[1]", "train.steps=1"});
  ASSERT_EQ(small.code, 0) << small.err;
  EXPECT_EQ(grid(path("run/dumps/step-000001.h5"), of_step), (std::vector<std::int64_t>{1, 2, 2}));
}

}  // namespace
}  // namespace biqa
