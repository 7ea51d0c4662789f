// SPDX-License-Identifier: Apache-2.0
// The built programs on what the world does wrong: one error line, the right exit code, no crash, no hang.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "learner/checkpoint_store.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/peft.h"
#include "ops/cuda/device.h"
#include "run/run_folder.h"
#include "support/run_program.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const fs::path kTiny = fs::path(BIQA_SOURCE_DIR) / "assets/tiny";
using Outcome = testing::ProgramOutcome;
using Surroundings = testing::ProgramSurroundings;

class Programs : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"biqa_eval", "biqa_learner", "biqa_scale", "biqa_score", "biqa_trace"}) {
      if (!fs::exists(program(name)))
        GTEST_SKIP() << program(name) << " is not built: build the target " << name << "_program to run this";
    }
  }

  static std::string program(const std::string& name) { return (fs::path(BIQA_BIN_DIR) / name).string(); }

  Outcome run(const Arguments& arguments, const Surroundings& surroundings = {}) const {
    return testing::run_program(folder_.path(), arguments, surroundings);
  }

  /// One error line that says `part`, this exit code, nothing else wrong.
  static void expect_error(const Outcome& outcome, int code, const std::string& part) {
    EXPECT_FALSE(outcome.hung);
    EXPECT_EQ(outcome.signal, 0);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.errors().size(), 1U) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(part));
    EXPECT_THAT(outcome.err, Not(HasSubstr("Check failure stack trace")));
    EXPECT_THAT(outcome.err, Not(HasSubstr("unexpected failure")));
  }

  /// A copy of the tiny model that a test may damage.
  fs::path copy_model(const std::string& name = "model") const {
    fs::path copy = folder_.path() / name;
    fs::copy(kTiny / "model", copy, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    return copy;
  }
  /// biqa_score with the tiny model and short answers.
  static Arguments score(const Arguments& more) {
    Arguments words{program("biqa_score"),
                    "--model",
                    (kTiny / "model").string(),
                    "--max-new-tokens",
                    "4",
                    "--format",
                    "json"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Outcome trace(const fs::path& model, const std::string& prompt = "x") const {
    return run({program("biqa_trace"), "--model", model.string(), "--prompt", prompt, "--out",
                (folder_.path() / "trace.h5").string()});
  }

  /// A training run of a few seconds; `more` are further --set values.
  Arguments learner(const Arguments& more = {}) const {
    Arguments words{program("biqa_learner"), "--config",
                    (fs::path(BIQA_SOURCE_DIR) / "configs/quickstart.yaml").string()};
    Arguments sets{fmt::format("train.out={}", (folder_.path() / "run").string()),
                   "rollout.images_per_step=4",
                   "rollout.group_size=4",
                   "train.steps=2",
                   "train.eval_images=4",
                   "train.eval_decodings=[greedy]"};
    sets.insert(sets.end(), more.begin(), more.end());
    for (const std::string& set : sets) words.insert(words.end(), {"--set", set});
    return words;
  }
  Outcome learn(const Arguments& more = {}) const { return run(learner(more)); }
  /// Training on a manifest of which only these lines exist, beside one good picture `a.png`.
  Outcome learn_from(const std::string& lines) const {
    fs::copy_file(kTiny / "sample_cat.png", folder_.path() / "a.png", fs::copy_options::overwrite_existing);
    return learn({fmt::format("data.train={}", folder_.write("train.jsonl", lines).string())});
  }

  TemporaryFolder folder_;
};

std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 0xFFU);
  return bytes;
}

/// A few bytes that ask for 60,000 x 60,000 pixels.
std::string bomb_png() {
  const std::string header =
      "IHDR" + big_endian(60000) + big_endian(60000) + std::string("\x08\x02\0\0\0", 5);
  std::uint32_t crc = ~0U;
  for (const char c : header) {
    crc ^= static_cast<std::uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320U : 0U);
  }
  return "\x89PNG\r\n\x1A\n" + big_endian(13) + header + big_endian(~crc) + big_endian(0) + "IDAT" +
         big_endian(0x35AF061E);
}

/// A safetensors file with its header changed; the data stay.
void rewrite_header(const fs::path& file, const std::function<void(nlohmann::json&)>& change) {
  const std::string content = file_content(file);
  std::uint64_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | static_cast<std::uint8_t>(content[i]);
  nlohmann::json header = nlohmann::json::parse(content.substr(8, length));
  change(header);
  const std::string text = header.dump();
  std::string size;
  for (int i = 0; i < 8; ++i) size += static_cast<char>(text.size() >> (8 * i) & 0xFFU);
  std::ofstream(file, std::ios::binary) << size << text << content.substr(8 + length);
}

TEST_F(Programs, UnknownFlag) {
  for (const char* name : {"biqa_eval", "biqa_learner", "biqa_scale", "biqa_score", "biqa_trace"}) {
    SCOPED_TRACE(name);
    expect_error(run({program(name), "--modle", "x"}), 2, "unknown flag --modle");
  }
}

TEST_F(Programs, HelpAndVersion) {
  for (const char* name : {"biqa_eval", "biqa_learner", "biqa_scale", "biqa_score", "biqa_trace"}) {
    const Outcome help = run({program(name), "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out, HasSubstr(name));
    const Outcome version = run({program(name), "--version"});
    EXPECT_EQ(version.code, 0);
    EXPECT_THAT(version.out, HasSubstr(built_with_cuda() ? ", backends: cpu, cuda\n" : ", backends: cpu\n"));
  }
}

// Wrappers and relocatable folders start programs through the loader.
TEST_F(Programs, StartThroughTheLoader) {
  const fs::path loader = "/lib64/ld-linux-x86-64.so.2";
  if (!fs::exists(loader)) GTEST_SKIP() << "no " << loader;
  const Outcome version = run({"env", "-u", "OMP_WAIT_POLICY", "-u", "GOMP_SPINCOUNT", loader.string(),
                               program("biqa_score"), "--version"});
  EXPECT_EQ(version.code, 0) << version.err;
  EXPECT_THAT(version.out, StartsWith("biqa "));
}

// libgomp shows its settings each time a program starts: the last are those that count. What the user has set stays.
TEST_F(Programs, WaitingThreadsSpinBriefly) {
  const auto shown = [&](const char* name, const std::string& setting) {
    const Outcome outcome = run({"env", "-u", "OMP_WAIT_POLICY", "-u", "GOMP_SPINCOUNT",
                                 "OMP_DISPLAY_ENV=VERBOSE", setting, program(name), "--version"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1) << outcome.out;
    const std::size_t place = outcome.err.rfind("GOMP_SPINCOUNT = '");
    return place == std::string::npos ? outcome.err
                                      : outcome.err.substr(place, outcome.err.find('\n', place) - place);
  };
  for (const char* name : {"biqa_eval", "biqa_learner", "biqa_scale", "biqa_score", "biqa_trace"}) {
    SCOPED_TRACE(name);
    EXPECT_EQ(shown(name, "LANG=C"), "GOMP_SPINCOUNT = '10000'");
    EXPECT_EQ(shown(name, "GOMP_SPINCOUNT=77"), "GOMP_SPINCOUNT = '77'");
    EXPECT_EQ(shown(name, "OMP_WAIT_POLICY=passive"), "GOMP_SPINCOUNT = '0'");
  }
}

TEST_F(Programs, WrongNumbersOfThreadsAreReportedOnce) {
  const Outcome outcome = run({"env", "-u", "OMP_WAIT_POLICY", "-u", "GOMP_SPINCOUNT", "OMP_NUM_THREADS=many",
                               "OMP_THREAD_LIMIT=0", program("biqa_score"), "--version"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  for (const char* name : {"OMP_NUM_THREADS", "OMP_THREAD_LIMIT"}) {
    const std::size_t place = outcome.err.find(name);
    ASSERT_NE(place, std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find(name, place + 1), std::string::npos) << outcome.err;
  }
}

// The build, or else the device, or else the part of the backend.
TEST_F(Programs, DeviceCudaSaysWhatIsMissing) {
  const auto check = [](const std::string& told) {
    EXPECT_THAT(told, HasSubstr("device cuda: "));
    EXPECT_EQ(told.find("this build has no CUDA backend; build it with `launch/build.sh cuda`") !=
                  std::string::npos,
              !built_with_cuda())
        << told;
  };
  const std::string model = (kTiny / "model").string(), picture = (kTiny / "sample_cat.png").string();
  for (const Outcome& outcome : {run({program("biqa_score"), "--model", model, "--device", "cuda", picture}),
                                 run({program("biqa_trace"), "--model", model, "--device", "cuda", "--prompt",
                                      "x", "--out", (folder_.path() / "out.h5").string()}),
                                 learn({"model.device=cuda"})}) {
    expect_error(outcome, 1, "device cuda: ");
    check(outcome.err);
  }
  // A plan for it can be made, but says that it is no more.
  const std::string settings = BIQA_SOURCE_DIR "/configs/quickstart.yaml";
  const Outcome plan =
      run({program("biqa_learner"), "--config", settings, "--set", "model.device=cuda", "--dry-run"});
  EXPECT_EQ(plan.code, 0);
  EXPECT_THAT(plan.err,
              HasSubstr("warning: this is a plan only, and a run here would be refused: device cuda"));
  EXPECT_THAT(plan.out, HasSubstr("H100 80GB HBM3 (assumed, no GPU found here)"));
  EXPECT_THAT(plan.out, HasSubstr("peak memory of a GPU"));
  check(plan.err);
}

TEST_F(Programs, MissingModel) {
  const std::string absent = (folder_.path() / "absent").string();
  expect_error(run({program("biqa_score"), "--model", absent, (kTiny / "sample_cat.png").string()}), 1,
               absent);
  expect_error(trace(absent), 1, absent);
  expect_error(learn({"model.path=" + absent}), 1, absent);
  EXPECT_FALSE(fs::exists(folder_.path() / "run"));
}

TEST_F(Programs, UnreadablePicturesAreReportedAndTheOthersScored) {
  const std::string good = (kTiny / "sample_cat.png").string();
  const std::string bytes = file_content(good);
  const Arguments bad{folder_.write("empty.png", "").string(),
                      folder_.write("half.png", bytes.substr(0, bytes.size() / 2)).string(),
                      folder_.write("strip.ppm", "P6 50000 1 255\n" + std::string(150000, 'x')).string(),
                      folder_.write("bomb.png", bomb_png()).string(),
                      (folder_.path() / "absent.png").string(),
                      folder_.write("text.png", "not a readable image").string()};
  Arguments words{program("biqa_score"),
                  "--model",
                  (kTiny / "model").string(),
                  "--max-new-tokens",
                  "4",
                  "--max-pixels",
                  "12544",
                  "--format",
                  "json",
                  good};
  words.insert(words.end(), bad.begin(), bad.end());
  words.push_back((kTiny / "sample_cat_dark.png").string());
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  // The untrained model rates nothing, which is said of the two good ones.
  EXPECT_EQ(outcome.errors().size(), bad.size() + 2) << outcome.err;
  for (const std::string& name : bad) EXPECT_THAT(outcome.err, HasSubstr(name));
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 2) << outcome.out;
  EXPECT_THAT(outcome.out, HasSubstr("sample_cat.png"));
  EXPECT_THAT(outcome.out, HasSubstr("sample_cat_dark.png"));
}

TEST_F(Programs, ArgumentsThatAreNoPicturesAreReportedAndTheOthersScored) {
  const fs::path loop = folder_.path() / "loop";
  fs::create_symlink(loop, loop);
  fs::create_directory(folder_.path() / "nothing");
  fs::copy_file(kTiny / "sample_cat.png", folder_.path() / "a.png");
  const Arguments bad{loop.string(), (folder_.path() / "nothing").string(),
                      folder_.write("empty.jsonl", "").string(), (folder_.path() / "absent.jsonl").string()};
  const std::string rows = folder_
                               .write("rows.jsonl", R"({"id": "one", "image": "a.png", "score": 77})"
                                                    "\n"
                                                    R"({"id": "two", "image": "absent.png"})"
                                                    "\n")
                               .string();
  Arguments words = score({});
  words.insert(words.end(), bad.begin(), bad.end());
  words.push_back(rows);
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  for (const std::string& name : bad) EXPECT_THAT(outcome.err, HasSubstr(name));
  EXPECT_EQ(outcome.errors().size(), bad.size() + 2) << outcome.err;  // absent.png, no rating of "one"
  EXPECT_THAT(outcome.err, HasSubstr("rows.jsonl:2"));
  EXPECT_THAT(outcome.out, HasSubstr("\"image\":\"one\""));
  EXPECT_THAT(outcome.err, HasSubstr("6 of 6 images"));
  expect_error(run(score({(folder_.path() / "empty.jsonl").string()})), 1, "empty.jsonl");
}

TEST_F(Programs, PictureWithoutRating) {
  const std::string picture = (kTiny / "sample_cat.png").string();
  for (const char* flag : {"--greedy", "--caption-only"}) {
    const Outcome outcome = run(score({flag, picture}));
    expect_error(outcome, 3, "cannot rate " + picture);
    EXPECT_THAT(outcome.err, HasSubstr("1 of 1 images"));
    EXPECT_THAT(outcome.out, HasSubstr("\"rating\":null"));
  }
}

/// The tiny model's answers with the decimal point read as a digit: 3.07 becomes 3807.
TEST_F(Programs, RatingsOutOfScaleAreMarkedAndCounted) {
  const fs::path model = copy_model();
  nlohmann::json tokenizer = nlohmann::json::parse(file_content(model / "tokenizer.json"));
  nlohmann::json& vocabulary = tokenizer["model"]["vocab"];
  std::swap(vocabulary["."], vocabulary["8"]);
  folder_.write("model/tokenizer.json", tokenizer.dump());
  const auto rate = [&](const std::string& path, const Arguments& more) {
    Arguments words{program("biqa_score"), "--config",
                    (fs::path(BIQA_SOURCE_DIR) / "configs/quickstart.yaml").string(), "--model", path};
    words.insert(words.end(), more.begin(), more.end());
    words.push_back((kTiny / "sample_cat.png").string());
    return run(words);
  };
  const Outcome off = rate(model.string(), {"--format", "json"});
  EXPECT_EQ(off.code, 0) << off.err;
  const nlohmann::json row = nlohmann::json::parse(off.out);
  EXPECT_GT(row["rating"], 1000);
  EXPECT_EQ(row["out_of_scale"], true);
  EXPECT_EQ(row["parse_ok"], true);
  EXPECT_THAT(off.err,
              HasSubstr("warning: 1 of 1 ratings and 1 from captions are out of scale (1 to 5); out_of_scale "
                        "marks only the rows with such a rating from the image"));
  EXPECT_EQ(off.err.find("warning"), off.err.rfind("warning"));

  const Outcome caption = rate(model.string(), {"--caption-only", "--format", "csv"});
  EXPECT_THAT(caption.out, HasSubstr("parse_ok,out_of_scale,seconds\n"));
  EXPECT_THAT(caption.out, HasSubstr(",true,true,"));
  EXPECT_THAT(caption.err,
              HasSubstr("warning: 1 of 1 ratings are out of scale (1 to 5); their rows are marked"));

  const Outcome good = rate((kTiny / "model").string(), {"--format", "json"});
  EXPECT_EQ(nlohmann::json::parse(good.out)["out_of_scale"], false);
  EXPECT_THAT(good.err, Not(HasSubstr("scale")));
}

TEST_F(Programs, LongNamesAreCutBetweenCharacters) {
  std::string name;
  for (int i = 0; i < 40; ++i) name += "ü";
  const fs::path picture = folder_.path() / (name + ".png");
  fs::copy_file(kTiny / "sample_cat.png", picture);
  const Outcome outcome = run({program("biqa_score"), "--model", (kTiny / "model").string(),
                               "--max-new-tokens", "2", picture.string()});
  std::string shown = "\n…";
  for (int i = 0; i < 27; ++i) shown += "ü";
  EXPECT_THAT(outcome.out, HasSubstr(shown + ".png "));
}

TEST_F(Programs, PromptsFlagWins) {
  std::string user = "rate";
  for (int i = 0; i < 3000; ++i) user += " blur";
  const std::string config =
      folder_
          .write("long.yaml", fmt::format("model: {{path: {}}}\nprompts: {{user: {}}}\n",
                                          (kTiny / "model").string(), user))
          .string();
  const std::string picture = (kTiny / "sample_cat.png").string();
  expect_error(run(score({"--config", config, "--prompts", "nonsense", picture})), 2,
               "--prompts is 'nonsense'");
  expect_error(run(score({"--config", config, picture})), 1, "2048");
  EXPECT_EQ(run(score({"--config", config, "--prompts", "released", picture})).code, 3);
}

TEST_F(Programs, UnreadablePictureInATrace) {
  expect_error(run({program("biqa_trace"), "--model", (kTiny / "model").string(), "--image",
                    folder_.write("bomb.png", bomb_png()).string(), "--prompt", "x", "--out",
                    (folder_.path() / "trace.h5").string()}),
               1, "60000 x 60000");
  EXPECT_FALSE(fs::exists(folder_.path() / "trace.h5"));
}

TEST_F(Programs, WrongConfiguration) {
  expect_error(learn({"rollout.groupsize=4"}), 2, "rollout.group_size");
  expect_error(learn({"rollout.group_size=four"}), 2, "rollout.group_size");
  expect_error(learn({"optimizer.lr=-1"}), 2, "optimizer.lr");
  expect_error(run({program("biqa_learner"), "--config",
                    folder_.write("bad.yaml", "model:\n  path: x\n  pahts: y\n").string()}),
               2, "bad.yaml:3");
  expect_error(
      run({program("biqa_learner"), "--config", folder_.write("broken.yaml", "model: {path: x\n").string()}),
      2, "broken.yaml");
  expect_error(run({program("biqa_learner"), "--config", (folder_.path() / "absent.yaml").string()}), 1,
               "absent.yaml");
  expect_error(run({program("biqa_learner")}), 2, "--config");
}

TEST_F(Programs, RolesThatDoNotAddUp) {
  expect_error(learn({"roles={actors: 2, rewards: 1, learners: 1}"}), 2, "mpirun -np 4");
  Arguments plan = learner({"roles={actors: 2, rewards: 1, learners: 1}"});
  plan.push_back("--dry-run");
  expect_error(run(plan), 2, "mpirun -np 4");
}

TEST_F(Programs, ThreadsOfARank) {
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  const auto threads = [&](const Arguments& before, const std::string& part) {
    Arguments words = before;
    const Arguments plan = learner({"train.progress=false"});
    words.insert(words.end(), plan.begin(), plan.end());
    words.push_back("--dry-run");
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_THAT(outcome.out, ::testing::ContainsRegex("threads per rank +" + part + "\n"));
    return outcome.err;
  };
  const Arguments two{"--allow-run-as-root", "--oversubscribe", "-np", "2"};
  const auto mpirun = [&](const Arguments& options) {
    Arguments words{"env", "OMP_NUM_THREADS=8,4", "mpirun"};
    words.insert(words.end(), two.begin(), two.end());
    words.insert(words.end(), options.begin(), options.end());
    return words;
  };
  EXPECT_THAT(threads({"taskset", "-c", "0", "env", "-u", "OMP_NUM_THREADS"}, "1"), Not(HasSubstr("binds")));
  EXPECT_THAT(threads(mpirun({"--bind-to", "none"}), "8"), Not(HasSubstr("binds")));
  if (std::thread::hardware_concurrency() < 2) return;
  const std::string bound = threads(mpirun({"--bind-to", "core"}), "8");
  EXPECT_THAT(bound, HasSubstr("the launcher binds this rank to 1 of the"));
  EXPECT_EQ(bound.find("the launcher binds"), bound.rfind("the launcher binds")) << "once, not by every rank";
}

TEST_F(Programs, SeveralRanksComplainOnce) {
  const Arguments launcher{"mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "3"};
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  for (const auto& [set, code, part] : std::vector<std::tuple<std::string, int, std::string>>{
           {"rollout.group_size=0", 2, "rank 0 of 3"},
           {"data.train=/absent/train.jsonl", 1, "rank 0 of 3"}}) {
    SCOPED_TRACE(set);
    Arguments words = launcher;
    const Arguments rest = learner({set});
    words.insert(words.end(), rest.begin(), rest.end());
    expect_error(run(words), code, part);
  }
}

TEST_F(Programs, OneRankOfALauncherComplainsToo) {
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  Arguments words{"mpirun", "--allow-run-as-root", "-np", "1"};
  const Arguments rest = learner({"rollout.group_size=0"});
  words.insert(words.end(), rest.begin(), rest.end());
  expect_error(run(words), 2, "rollout.group_size");
}

TEST_F(Programs, SeveralRanksAnswerOnce) {
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  Arguments words{"mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "3", program("biqa_learner")};
  expect_error(run(words), 2, "error: rank 0 of 3: flag --config is missing");
  words.emplace_back("--foo");
  expect_error(run(words), 2, "error: rank 0 of 3: unknown flag --foo");
  words.back() = "--help";
  const Outcome help = run(words);
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.out.find("usage:"), help.out.rfind("usage:")) << help.out;
  words.back() = "--version";
  const std::string version = run(words).out;
  EXPECT_EQ(std::count(version.begin(), version.end(), '\n'), 1) << version;
}

// Ranks other than the first are silent before MPI is up, whatever launched them.
TEST_F(Programs, LaterRanksAreSilentAboutTheCommandLine) {
  for (const char* rank : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    SCOPED_TRACE(rank);
    Outcome outcome = run({"env", fmt::format("{}=1", rank), program("biqa_learner"), "--foo"});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.err, "");
    outcome = run({"env", fmt::format("{}=1", rank), program("biqa_learner"), "--help"});
    EXPECT_EQ(outcome.code, 0);
    EXPECT_EQ(outcome.out, "");
    // The other programs are no ranks of anything.
    expect_error(run({"env", fmt::format("{}=1", rank), program("biqa_score"), "--foo"}), 2, "--foo");
  }
}

TEST_F(Programs, UnwritableRunFolder) {
  // Permissions mean nothing to root; nobody can make a folder below a file.
  const fs::path file = folder_.write("file", "");
  expect_error(learn({"train.out=" + (file / "run").string()}), 1, (file / "run").string());
}

TEST_F(Programs, DiskFull) {
  const std::string whole = program("biqa_score");
  expect_error(run({whole, "--help"}, {"/dev/full", RLIM_INFINITY, {}}), 1, "standard output");
  expect_error(run({whole, "--model", (kTiny / "model").string(), "--max-new-tokens", "2",
                    (kTiny / "sample_cat.png").string()},
                   {"/dev/full", RLIM_INFINITY, {}}),
               1, "standard output");
  // Enough for the configuration, not for a checkpoint.
  Surroundings small;
  small.largest_file = 64 * 1024;
  expect_error(run(learner(), small), 1, "checkpoints");
  const fs::path checkpoints = folder_.path() / "run/checkpoints";
  EXPECT_FALSE(fs::exists(checkpoints / "latest"));
  // With room again the same command does the run.
  EXPECT_EQ(learn().code, 0);
  EXPECT_TRUE(fs::exists(checkpoints / "latest"));
}

TEST_F(Programs, AdapterForAnotherModel) {
  ModelConfig other = ModelConfig::load(kTiny / "model");
  other.text.hidden *= 2;
  const fs::path adapter = folder_.path() / "adapter";
  write_peft(adapter, initial_lora(std::make_shared<LoraLayout>(other, LoraSpec{}), 1), "another");
  expect_error(run({program("biqa_score"), "--model", (kTiny / "model").string(), "--adapter",
                    adapter.string(), (kTiny / "sample_cat.png").string()}),
               1, adapter.string());
  expect_error(learn({"model.adapter=" + adapter.string()}), 1, adapter.string());
}

TEST_F(Programs, TraceTakesAnyAdapter) {
  const ModelConfig config = ModelConfig::load(kTiny / "model");
  const fs::path file = folder_.path() / "run" / "adapter.h5";
  fs::create_directory(file.parent_path());
  write_adapter_h5(file, initial_lora(std::make_shared<LoraLayout>(config, LoraSpec{}), 1), {});
  for (const fs::path& adapter : {file, file.parent_path()}) {
    const Outcome outcome = run({program("biqa_trace"), "--model", (kTiny / "model").string(), "--adapter",
                                 adapter.string(), "--prompt", "x", "--completion", "y", "--gradient",
                                 "--out", (folder_.path() / "trace.h5").string()});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
  }
}

TEST_F(Programs, TraceRefusesPlacesThatAreNoFiles) {
  for (const char* flag : {"--tokenize", "--detokenize"}) {
    expect_error(
        run({program("biqa_trace"), "--model", (kTiny / "model").string(), flag, folder_.path().string()}), 1,
        "it is a folder");
  }
  const std::string input = folder_.write("input.h5", "an input").string();
  for (const char* flag : {"--step", "--image", "--adapter"}) {
    expect_error(
        run({program("biqa_trace"), "--model", (kTiny / "model").string(), flag, input, "--out", input}), 2,
        "would replace the input");
  }
  EXPECT_EQ(file_content(input), "an input");
  const fs::path pipe = folder_.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_error(run({program("biqa_trace"), "--model", (kTiny / "model").string(), "--prompt", "x", "--out",
                    pipe.string()}),
               1, "neither a file nor a folder");
  EXPECT_TRUE(fs::is_fifo(pipe));
}

TEST_F(Programs, PromptLongerThanTheModel) {
  std::string words;
  for (int i = 0; i < 3000; ++i) words += "blur ";
  expect_error(trace(kTiny / "model", words), 1, "2048");
  expect_error(learn({"prompts.user=" + words}), 1, "2048");
}

TEST_F(Programs, NoSuchDevice) {
  expect_error(run({program("biqa_score"), "--model", (kTiny / "model").string(), "--device", "cuda",
                    (kTiny / "sample_cat.png").string()}),
               1, "cuda");
  expect_error(run({program("biqa_trace"), "--model", (kTiny / "model").string(), "--device", "cuda",
                    "--prompt", "x", "--out", (folder_.path() / "trace.h5").string()}),
               1, "cuda");
  expect_error(learn({"model.device=cuda"}), 1, "cuda");
  expect_error(learn({"model.device=tpu"}), 2, "tpu");
}

TEST_F(Programs, BadManifest) {
  const std::string good = R"({"id": "a", "image": "a.png", "score": 3})"
                           "\n";
  expect_error(learn_from(good + "{\"id\": \n"), 1, "train.jsonl:2");
  expect_error(learn_from(good + R"({"id": "b", "image": "absent.png", "score": 3})"), 1, "train.jsonl:2");
  expect_error(learn_from(good + R"({"id": "b", "image": "a.png", "score": 7})"), 1, "train.jsonl:2");
  expect_error(learn_from(good + R"({"id": "b", "image": "a.png", "score": NaN})"), 1, "train.jsonl:2");
  expect_error(learn_from(good + good), 1, "train.jsonl:2");
  expect_error(learn_from(""), 1, "train.jsonl");
}

TEST_F(Programs, UnreadablePictureWhileTraining) {
  std::string lines;
  for (int i = 0; i < 4; ++i)
    lines += fmt::format(R"({{"id": "{0}", "image": "{0}.png", "score": 3}})", i) + "\n";
  for (int i = 0; i < 4; ++i) folder_.write(fmt::format("{}.png", i), "not a readable image");
  expect_error(learn_from(lines), 1, ".png");
}

TEST_F(Programs, PicturesAreLookedAtBeforeTheFirstStep) {
  fs::copy_file(kTiny / "sample_cat.png", folder_.path() / "good.png");
  std::string lines;
  for (int i = 0; i < 4; ++i)
    lines += fmt::format(R"({{"id": "{}", "image": "good.png", "score": {}}})", i, 1 + i) + "\n";
  folder_.write("empty.png", "");
  folder_.write("strip.ppm", "P6 50000 1 255\n" + std::string(150000, 'x'));
  folder_.write("bomb.png", bomb_png());
  for (const char* name : {"empty.png", "strip.ppm", "bomb.png"}) {
    const std::string manifest =
        folder_.write("train.jsonl", lines + fmt::format(R"({{"id": "x", "image": "{}", "score": 3}})", name))
            .string();
    expect_error(learn({"data.train=" + manifest}), 1, "train.jsonl:5");
    Arguments dry = learner({"data.train=" + manifest});
    dry.push_back("--dry-run");
    expect_error(run(dry), 1, "train.jsonl:5");
    EXPECT_FALSE(fs::exists(folder_.path() / "run"));
    const Outcome without =
        learn({"data.train=" + manifest, "data.skip_bad=true", "train.steps=1", "data.eval=[]"});
    EXPECT_EQ(without.code, 0) << without.err;
    EXPECT_THAT(without.err, HasSubstr("train.jsonl:5"));
    // The log also has what was said before the first step.
    EXPECT_THAT(file_content(folder_.path() / "run/logs/rank-00000.log"), HasSubstr("train.jsonl:5"));
    fs::remove_all(folder_.path() / "run");
    dry.insert(dry.end(), {"--set", "data.skip_bad=true"});
    const Outcome plan = run(dry);
    EXPECT_EQ(plan.code, 0) << plan.err;
    EXPECT_THAT(plan.out, HasSubstr("warning: 1 of 5 rows of " + manifest + " are left out"));
    EXPECT_THAT(plan.out, HasSubstr("train.jsonl:5"));
  }
}

TEST_F(Programs, LengthsThatCanNeverFitAreFoundBeforeTheFirstStep) {
  const std::string out = (folder_.path() / "run").string();
  for (const std::string& set :
       {std::string("rollout.max_new_tokens=2048"), std::string("rollout.stage2_max_new_tokens=2048"),
        std::string("rollout.kv_memory=1MiB")}) {
    SCOPED_TRACE(set);
    Arguments sets{set};
    if (set.find("kv_memory") != std::string::npos) sets.push_back("rollout.group_size=32");
    expect_error(learn(sets), 1, "tokens");
    Arguments dry = learner(sets);
    dry.push_back("--dry-run");
    expect_error(run(dry), 1, "tokens");
    EXPECT_FALSE(fs::exists(out));
  }
}

TEST_F(Programs, PlansWithoutWeightsOrPictures) {
  const fs::path model = copy_model();
  fs::remove(model / "model.safetensors");
  Arguments words = learner({"model.path=" + model.string(), "data.train=/absent/train.jsonl"});
  expect_error(run(words), 1, "/absent/train.jsonl");
  words.push_back("--dry-run");
  const Outcome plan = run(words);
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("no weights"));
  EXPECT_THAT(plan.out, HasSubstr("/absent/train.jsonl"));
  EXPECT_THAT(plan.out, HasSubstr("peak memory"));
  expect_error(learn({"model.path=" + model.string()}), 1, "safetensors");
  // Without a model folder there is nothing to plan.
  Arguments none = learner({"model.path=/absent/model"});
  none.push_back("--dry-run");
  expect_error(run(none), 1, "/absent/model");
  // Nor without the run whose adapter is the start.
  Arguments start = learner({"model.adapter=/absent/warmup/adapter"});
  start.push_back("--dry-run");
  expect_error(run(start), 1, "model.adapter /absent/warmup/adapter");
}

TEST_F(Programs, MissingHumanTextsAreToldBeforeTheFirstStep) {
  fs::copy_file(kTiny / "sample_cat.png", folder_.path() / "cat.png");
  std::string lines;
  for (int i = 0; i < 4; ++i)
    lines += fmt::format(R"({{"id": "{}", "image": "cat.png", "score": {}}})", i, 1 + i) + "\n";
  const Arguments sets{"data.train=" + folder_.write("train.jsonl", lines).string(), "data.eval=[]",
                       "train.steps=1"};
  const std::string warning = "train.jsonl has a human text: the reward is the same for all completions";
  Arguments dry = learner(sets);
  dry.push_back("--dry-run");
  const Outcome plan = run(dry);
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr(warning));
  const Outcome done = learn(sets);
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_THAT(done.err, HasSubstr(warning));
  dry.insert(dry.end(), {"--set", "data.annotation_fraction=0"});
  EXPECT_THAT(run(dry).out, Not(HasSubstr("human text")));
}

TEST_F(Programs, RandomModelsOpenAndReplaceNothing) {
  if (!fs::exists(program("biqa_random_model"))) GTEST_SKIP() << "the benchmarks are not built";
  const fs::path out = folder_.path() / "random";
  const Arguments words{program("biqa_random_model"),
                        "--like",
                        (kTiny / "model").string(),
                        "--size",
                        "tiny",
                        "--layers",
                        "1",
                        "--image-tokens",
                        "30",
                        "--out",
                        out.string()};
  const Outcome written = run(words);
  ASSERT_EQ(written.code, 0) << written.err;
  const ModelConfig config = ModelConfig::load(out);
  EXPECT_EQ(config.text.layers, 1);
  EXPECT_GT(Checkpoint::open(out, config).bytes(), 0);
  const Outcome rated =
      run({program("biqa_score"), "--model", out.string(), (kTiny / "sample_cat.png").string()});
  EXPECT_EQ(rated.signal, 0);
  EXPECT_THAT(rated.err, ::testing::Not(HasSubstr("not finite")));
  expect_error(run(words), 1, "exists");
}

TEST_F(Programs, DamagedTokenizer) {
  const fs::path model = copy_model();
  const std::string json = file_content(model / "tokenizer.json");
  folder_.write("model/tokenizer.json", json.substr(0, json.size() / 2));
  expect_error(trace(model), 1, "tokenizer.json");
  expect_error(run({program("biqa_trace"), "--model", model.string(), "--tokenize",
                    folder_.write("words.jsonl", "\"blur\"\n").string()}),
               1, "tokenizer.json");
}

TEST_F(Programs, DamagedWeights) {
  const fs::path file = copy_model() / "model.safetensors";
  const fs::path model = file.parent_path();
  const std::string whole = file_content(file);
  const auto restore = [&] { std::ofstream(file, std::ios::binary) << whole; };

  fs::resize_file(file, whole.size() / 2);
  expect_error(trace(model), 1, "model.safetensors");
  fs::resize_file(file, 0);
  expect_error(trace(model), 1, "model.safetensors");
  for (const char* length : {"\xff\xff\xff\xff\xff\xff\xff\x7f", "\xff\xff\xff\xff\xff\xff\xff\xff",
                             "\x00\x00\x00\x40\x00\x00\x00\x00"}) {
    std::ofstream(file, std::ios::binary) << std::string(length, 8) << whole.substr(8);
    expect_error(trace(model), 1, "model.safetensors");
  }
  restore();
  rewrite_header(file, [](nlohmann::json& header) {
    header["model.layers.0.mlp.up_proj.weight"]["data_offsets"] =
        header["model.layers.0.mlp.gate_proj.weight"]["data_offsets"];
  });
  expect_error(trace(model), 1, "model.safetensors");
  restore();
  rewrite_header(file, [](nlohmann::json& header) { header["model.norm.weight"]["dtype"] = "I16"; });
  expect_error(trace(model), 1, "model.norm.weight");
  restore();
  rewrite_header(file, [](nlohmann::json& header) { header["model.norm.weight"]["shape"] = {2, 64}; });
  expect_error(trace(model), 1, "model.norm.weight");
}

TEST_F(Programs, MissingShard) {
  const fs::path model = copy_model();
  fs::rename(model / "model.safetensors", model / "model-00001-of-00002.safetensors");
  nlohmann::json index;
  index["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors";
  index["weight_map"]["model.embed_tokens.weight"] = "model-00002-of-00002.safetensors";
  folder_.write("model/model.safetensors.index.json", index.dump());
  expect_error(trace(model), 1, "model-00002-of-00002.safetensors");
}

TEST_F(Programs, ImpossibleShapes) {
  const fs::path model = copy_model();
  const auto original = nlohmann::json::parse(file_content(model / "config.json"));
  const auto with = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json changed = original;
    changed["text_config"][key] = value;
    folder_.write("model/config.json", changed.dump());
    return trace(model);
  };
  expect_error(with("hidden_size", 130), 1, "config.json");
  expect_error(with("hidden_size", -128), 1, "hidden_size");
  expect_error(with("num_attention_heads", 0), 1, "num_attention_heads");
  expect_error(with("num_hidden_layers", 1LL << 40), 1, "num_hidden_layers");
  expect_error(with("vocab_size", 1LL << 60), 1, "vocab_size");
  expect_error(with("intermediate_size", 512), 1, "mlp");
  expect_error(with("num_key_value_heads", 3), 1, "num_key_value_heads");
}

TEST_F(Programs, StoppedRunGoesOn) {
  const Arguments words = learner({"train.steps=12", "checkpoint.every=100"});
  const fs::path run_folder = folder_.path() / "run";
  const auto steps_done = [&] {
    std::vector<int> steps;
    std::istringstream lines(file_content(run_folder / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      if (line.find("\"eval\"") == std::string::npos) steps.push_back(nlohmann::json::parse(line)["step"]);
    }
    return steps;
  };
  std::size_t before = 0;
  for (const int signal : {SIGTERM, SIGUSR2}) {
    SCOPED_TRACE(signal);
    bool asked = false;
    Surroundings impatient;
    impatient.meanwhile = [&](pid_t child) {
      if (asked || steps_done().size() <= before) return;
      asked = ::kill(child, signal) == 0;
    };
    const Outcome stopped = run(words, impatient);
    ASSERT_EQ(stopped.code, 75) << stopped.err;
    EXPECT_TRUE(stopped.errors().empty()) << stopped.err;
    before = steps_done().size();
    EXPECT_LT(before, 12U);
    EXPECT_TRUE(fs::exists(run_folder / "checkpoints/latest/manifest.json"));
  }

  const Outcome finished = run(words);
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_EQ(steps_done(), (std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
  EXPECT_TRUE(fs::exists(run_folder / "adapter.h5"));
  EXPECT_THAT(finished.err, HasSubstr("finished after step 12: the trained adapter is in " +
                                      (run_folder / "adapter").string()));
}

// mpirun kills the ranks on SIGTERM but hands SIGUSR2 on, which is what the scripts in launch/ stop a job with.
TEST_F(Programs, SeveralRanksStopThroughTheLauncher) {
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  const Arguments program_words = learner({"train.steps=400", "checkpoint.every=100"});
  Arguments launcher{"mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2"};
  launcher.insert(launcher.end(), program_words.begin(), program_words.end());
  const std::string local = BIQA_SOURCE_DIR "/launch/local.sh";
  Arguments script{"env", "BIQA_LEARNER=" + program("biqa_learner"), "bash", local, "-n", "2"};
  script.insert(script.end(), program_words.begin() + 2,
                program_words.end());  // without biqa_learner --config
  std::size_t before = 0;
  for (const auto& attempt : {std::pair{launcher, SIGUSR2}, std::pair{script, SIGTERM}}) {
    const Arguments& words = attempt.first;
    SCOPED_TRACE(words.front());
    bool asked = false;
    Surroundings impatient;
    impatient.meanwhile = [&](pid_t child) {
      const std::string metrics = file_content(folder_.path() / "run" / "metrics.jsonl");
      if (asked || metrics.find("\"loss\"", before) == std::string::npos) return;
      asked = ::kill(child, attempt.second) == 0;
    };
    const Outcome stopped = run(words, impatient);
    ASSERT_EQ(stopped.code, 75) << stopped.err;
    EXPECT_THAT(stopped.err, HasSubstr("give the same command again to resume"));
    EXPECT_TRUE(fs::exists(folder_.path() / "run" / "checkpoints/latest/manifest.json"));
    before = file_content(folder_.path() / "run" / "metrics.jsonl").size();
  }
}

TEST_F(Programs, LogsThatNoRankCanOpenAreOneError) {
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  for (int rank = 0; rank < 3; ++rank)
    fs::create_directories(folder_.path() / "run" / "logs" / fmt::format("rank-{:05}.log", rank));
  const Arguments program_words = learner({"train.steps=1", "data.eval=[]"});
  Arguments launcher{"mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "3"};
  launcher.insert(launcher.end(), program_words.begin(), program_words.end());
  const Outcome outcome = run(launcher);
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("rank-0000"));
  const std::size_t first = outcome.err.find("error: rank ");
  ASSERT_NE(first, std::string::npos) << outcome.err;
  EXPECT_EQ(first, outcome.err.rfind("error: rank ")) << outcome.err;
}

// Nobody reads what the ranks say any more, and nobody ends them.
TEST_F(Programs, ADeadLauncherLeavesACheckpointOfTheLastStep) {
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  const Arguments program_words = learner({"train.steps=4000", "checkpoint.every=0", "data.eval=[]"});
  Arguments launcher{"mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2"};
  launcher.insert(launcher.end(), program_words.begin(), program_words.end());
  const fs::path folder = folder_.path() / "run";
  bool asked = false;
  Surroundings impatient;
  impatient.meanwhile = [&](pid_t child) {
    if (!asked && file_content(folder / "metrics.jsonl").find("{\"step\":3,") != std::string::npos)
      asked = ::kill(child, SIGKILL) == 0;
  };
  EXPECT_NE(run(launcher, impatient).code, 0);
  ASSERT_TRUE(asked);
  // As long as a rank lives, the folder is locked.
  const int lock = ::open((folder / ".lock").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(lock, 0);
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (::flock(lock, LOCK_EX | LOCK_NB) != 0 && std::chrono::steady_clock::now() < patience)
    ::usleep(20'000);
  EXPECT_EQ(::flock(lock, LOCK_EX | LOCK_NB), 0) << "a rank is left";
  ::close(lock);
  const std::vector<StepMetrics> steps = read_metrics(folder / "metrics.jsonl").steps;
  EXPECT_EQ(fs::read_symlink(folder / "checkpoints/latest").string(),
            fmt::format("step-{:06}", steps.back().step));
  // With Open MPI 5 the second rank may be gone before it notices.
  EXPECT_THAT(file_content(folder / "logs/rank-00000.log") + file_content(folder / "logs/rank-00001.log"),
              HasSubstr("the launcher (mpirun, srun) has ended"));
}

/// Signals that a process has a handler for, as in /proc: bit N - 1 is signal N.
std::uint64_t caught_signals(pid_t process) {
  const std::string status = file_content(fmt::format("/proc/{}/status", process));
  const std::size_t place = status.find("SigCgt:");
  return place == std::string::npos ? 0 : std::strtoull(status.c_str() + place + 7, nullptr, 16);
}

// Who asks a job that only just starts must not kill it.
TEST_F(Programs, RanksListenBeforeMpiStarts) {
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  const Arguments program_words = learner({"train.steps=1", "data.eval=[]"});
  Arguments launcher{"mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2"};
  launcher.insert(launcher.end(), program_words.begin(), program_words.end());
  bool asked = false;
  Surroundings impatient;
  impatient.meanwhile = [&](pid_t child) {
    std::istringstream children(file_content(fmt::format("/proc/{0}/task/{0}/children", child)));
    for (pid_t rank = 0; !asked && children >> rank;) {
      constexpr std::uint64_t kStops = std::uint64_t{1} << (SIGUSR2 - 1);
      const std::string program = file_content(fmt::format("/proc/{}/comm", rank));
      if (program.starts_with("biqa_learner") && (caught_signals(rank) & kStops) != 0)
        asked = ::kill(rank, SIGUSR1) == 0;
    }
  };
  const Outcome outcome = run(launcher, impatient);
  EXPECT_TRUE(asked);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
}

/// A program that never listens and notes every start.
class DeafProgram {
 public:
  explicit DeafProgram(const TemporaryFolder& folder)
      : starts_(folder.path() / "starts"),
        program_(folder.write(
            "deaf", fmt::format("#!/bin/sh\necho start >> {}\nexec sleep 60\n", starts_.string()))) {
    fs::permissions(program_, fs::perms::owner_all);
  }
  std::string path() const { return program_.string(); }
  std::ptrdiff_t starts() const {
    const std::string lines = file_content(starts_);
    return std::count(lines.begin(), lines.end(), '\n');
  }
  /// The first start is asked to save, the second to stop.
  Surroundings asked_to_save_then_stop(int save, int stop) {
    Surroundings impatient;
    impatient.meanwhile = [this, save, stop](pid_t child) {
      if (starts() == asked_) return;
      ::kill(child, asked_ == 0 ? save : stop);
      ++asked_;
    };
    return impatient;
  }

 private:
  fs::path starts_, program_;
  std::ptrdiff_t asked_ = 0;
};

TEST_F(Programs, LocalScriptIsAskedBeforeTheProgramListens) {
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  DeafProgram deaf(folder_);
  const std::string script = BIQA_SOURCE_DIR "/launch/local.sh";
  const Outcome outcome = run({"env", "BIQA_LEARNER=" + deaf.path(), "bash", script, "some.yaml"},
                              deaf.asked_to_save_then_stop(SIGUSR1, SIGTERM));
  EXPECT_EQ(outcome.code, 75) << outcome.err;
  EXPECT_EQ(deaf.starts(), 2);  // a request to save is no failure
}

// Nor must a job whose time is too short to do a step be requeued for ever.
TEST_F(Programs, JobScriptIsAskedBeforeTheProgramListensAndCountsWhatSavedNothing) {
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  const fs::path scontrol = folder_.write("scontrol", "#!/bin/sh\nexit 0\n");
  fs::permissions(scontrol, fs::perms::owner_all);
  const std::string home = BIQA_SOURCE_DIR, script = home + "/launch/koniq.slurm";
  for (const bool last : {false, true}) {
    fs::remove(folder_.path() / "starts");
    DeafProgram deaf(folder_);
    Arguments words{"env", "PATH=" + folder_.path().string() + ":" + std::getenv("PATH"), "SLURM_JOB_ID=1"};
    words.insert(words.end(), {"SLURM_JOB_NAME=short", "SLURM_JOB_NUM_NODES=1", "SLURM_CPUS_ON_NODE=2",
                               "BIQA_RANKS_PER_NODE=01", "BIQA_STOP_SECONDS=080", "BIQA_RESTARTS=1",
                               "SLURM_SUBMIT_DIR=" + home, "BIQA_CONFIG=configs/quickstart.yaml",
                               "BIQA_LEARNER=" + deaf.path(), "BIQA_OUT=" + (folder_.path() / "run").string(),
                               "bash", script});
    const Outcome outcome = run(words, deaf.asked_to_save_then_stop(SIGHUP, SIGUSR1));
    EXPECT_EQ(outcome.code, 75) << outcome.err;
    EXPECT_EQ(deaf.starts(), 2);
    EXPECT_THAT(outcome.out + outcome.err,
                HasSubstr(last ? "it was stopped 2 times before it could save a step" : "requeue of job 1"));
  }
}

// Of Open MPI 5: without a slot each, ranks yield at every poll, and a step takes up to half as long again.
TEST_F(Programs, LocalScriptGivesEachRankASlot) {
  // Open MPI 5 reads its settings and does not hand them on, so a launcher of our own says what it was given.
  const fs::path launcher =
      folder_.write("mpirun", "#!/bin/sh\necho slots $PRTE_MCA_prte_set_default_slots\n");
  fs::permissions(launcher, fs::perms::owner_all);
  const std::string path = "PATH=" + folder_.path().string() + ":" + std::getenv("PATH");
  const std::string script = BIQA_SOURCE_DIR "/launch/local.sh";
  const Arguments call{"bash", script, "-n", "3", "some.yaml"};
  const auto with = [&](const std::string& setting) {
    Arguments words{"env", "-u", "PRTE_MCA_prte_set_default_slots", path, "BIQA_LEARNER=true", setting};
    words.insert(words.end(), call.begin(), call.end());
    return run(words).out;
  };
  EXPECT_EQ(with("LANG=C"), "slots 3\n");
  EXPECT_EQ(with("PRTE_MCA_prte_set_default_slots=2"), "slots 2\n");
}

TEST_F(Programs, LocalScriptNamesTheSignalThatEndedARun) {
  const fs::path launcher = folder_.write("mpirun", "#!/bin/sh\nkill -KILL $$\n");
  fs::permissions(launcher, fs::perms::owner_all);
  const std::string path = "PATH=" + folder_.path().string() + ":" + std::getenv("PATH");
  const std::string script = BIQA_SOURCE_DIR "/launch/local.sh";
  const Outcome outcome =
      run({"env", path, "BIQA_LEARNER=true", "bash", script, "--restarts", "1", "some.yaml"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err,
            "local.sh: failed with exit code 137; restart 1 of at most 1\n"
            "local.sh: the signal KILL ended the run; give the same command again to resume\n");
}

TEST_F(Programs, LocalScriptStartsAgainAsOftenAsAllowed) {
  if (run({"mpirun", "--version"}).code != 0) GTEST_SKIP() << "mpirun does not start here";
  const fs::path starts = folder_.path() / "starts";
  const fs::path fake = folder_.write(
      "fake", fmt::format("#!/bin/sh\necho start >> {0}\nexit $(($(wc -l < {0}) < 3))\n", starts.string()));
  fs::permissions(fake, fs::perms::owner_all);
  const auto local = [&](const Arguments& more) {
    Arguments words{"env", "BIQA_LEARNER=" + fake.string(), "bash", BIQA_SOURCE_DIR "/launch/local.sh"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  EXPECT_EQ(local({"some.yaml"}).code, 1);
  EXPECT_EQ(file_content(starts), "start\n");
  const Outcome again = local({"--restarts", "3", "some.yaml", "--set", "train.seed=1"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(file_content(starts), "start\nstart\nstart\n");
  expect_error(local({"-n", "two", "some.yaml"}), 2, "-n needs a whole number");
  expect_error(local({}), 2, "no configuration");
}

}  // namespace
}  // namespace biqa
