// SPDX-License-Identifier: Apache-2.0
// launch/sweep.sh with the embedded model. It starts each run by launch/local.sh, which calls `mpirun --oversubscribe`.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/statistics.h"
#include "run/run_folder.h"
#include "run/sweep_table.h"
#include "support/run_program.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Outcome = testing::ProgramOutcome;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const fs::path kSource = BIQA_SOURCE_DIR;

class SweepScript : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"biqa_learner", "biqa_sweep", "biqa_eval"}) {
      if (!fs::exists(program(name)))
        GTEST_SKIP() << program(name) << " is not built: build the target " << name << "_program to run this";
    }
    const std::string tiny = fmt::format(
        "base: {}\nrollout: {{images_per_step: 2, group_size: 2}}\nmodel: {{threads: 1}}\n"
        "train: {{steps: 12, eval_images: 6, eval_decodings: [sampled], progress: false}}\n"
        "checkpoint: {{every: 1}}\n",
        (kSource / "configs/quickstart.yaml").string());
    folder.write("configs/a.yaml", tiny);
    folder.write("configs/b.yaml", "base: a.yaml\nrewards: {format: 0}\n");
  }

  static std::string program(const std::string& name) { return (fs::path(BIQA_BIN_DIR) / name).string(); }
  fs::path out() const { return folder.path() / "out"; }

  /// launch/sweep.sh --out OUT `words`; `before`: words in front of it, such as an environment.
  Outcome sweep(const std::vector<std::string>& words, const std::function<void(pid_t)>& meanwhile = {},
                const std::vector<std::string>& before = {}) const {
    std::vector<std::string> all{"env", "BIQA_LEARNER=" + program("biqa_learner"), "OMP_WAIT_POLICY=passive"};
    all.insert(all.end(), before.begin(), before.end());
    for (const std::string& word :
         {std::string("bash"), (kSource / "launch/sweep.sh").string(), std::string("--out"), out().string()})
      all.push_back(word);
    all.insert(all.end(), words.begin(), words.end());
    testing::ProgramSurroundings surroundings;
    surroundings.meanwhile = meanwhile;
    Outcome outcome = testing::run_program(folder.path(), all, surroundings);
    EXPECT_FALSE(outcome.hung) << outcome.err;
    return outcome;
  }

  TemporaryFolder folder;
};

/// Kills the learner of this run folder, if there is one.
bool kill_learner(const std::string& program, const fs::path& run) {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string id = entry.path().filename().string();
    if (id.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string command = file_content(entry.path() / "cmdline");
    if (command.starts_with(program) && command.find("train.out=" + run.string() + '\0') != std::string::npos)
      return ::kill(std::stoi(id), SIGKILL) == 0;
  }
  return false;
}

TEST_F(SweepScript, StopsGoesOnAndMakesItsTable) {
  const std::string configs = (folder.path() / "configs").string();
  const std::vector<std::string> command{"--seeds", "1,2", configs};

  // Stopped in the first run, which saves; the others have not begun.
  bool asked = false;
  const Outcome stopped = sweep(command, [&](pid_t script) {
    if (asked || !fs::exists(out() / "a/seed-1/checkpoints/latest")) return;
    asked = true;
    ::kill(script, SIGTERM);
  });
  EXPECT_EQ(stopped.code, 75) << stopped.err;
  EXPECT_THAT(stopped.err,
              AllOf(HasSubstr("4 runs: 0 finished, 4 to do"), HasSubstr("a, seed 1: stopped on request\n"),
                    HasSubstr("0 of 4 runs are finished, 4 stopped"), HasSubstr("stopped: a, seed 1\n"),
                    HasSubstr("stopped: b, seed 2\n")));

  // A run that fails is named and does not stop the others.
  bool killed = false;
  const fs::path victim = out() / "b/seed-1";
  const Outcome failed = sweep(command, [&](pid_t) {
    if (!killed && fs::exists(victim / "config.yaml")) killed = kill_learner(program("biqa_learner"), victim);
  });
  EXPECT_TRUE(killed);
  EXPECT_EQ(failed.code, 3) << failed.err;
  EXPECT_THAT(failed.errors(),
              ElementsAre(AllOf(HasSubstr("b, seed 1 failed with exit code 1"), HasSubstr("seed-1.log"))));
  EXPECT_THAT(failed.err,
              AllOf(HasSubstr("failed: b, seed 1\n"), HasSubstr("b: not finished and left out: seed 1")));
  EXPECT_THAT(file_content(out() / "a/seed-1.log"), HasSubstr("resuming from"));

  const Outcome done = sweep(command);
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_THAT(done.err,
              AllOf(HasSubstr("4 runs: 3 finished, 1 to do"), HasSubstr("4 of 4 runs are finished")));
  EXPECT_EQ(done.out, file_content(out() / "table.txt"));

  // The table has the figures of metrics.jsonl.
  const Outcome json = testing::run_program(
      folder.path(), {program("biqa_sweep"), "table", out().string(), "--format", "json"});
  const auto table = nlohmann::json::parse(json.out);
  ASSERT_EQ(table["rows"].size(), 2U);
  for (const auto& row : table["rows"]) {
    for (const SweepColumn& column : sweep_columns(SweepSource::training)) {
      std::vector<double> values;
      for (const char* seed : {"seed-1", "seed-2"}) {
        const fs::path run = out() / row["config"].get<std::string>() / seed;
        for (const EvalMetrics& line : read_metrics(run / "metrics.jsonl").evaluations) {
          const double value = column_of(line, column.figure);
          if (line.step == 12 && line.condition == column.condition && std::isfinite(value))
            values.push_back(value);
        }
      }
      const auto& figure = row[std::string(column.name)];
      EXPECT_EQ(figure["n"].get<std::size_t>(), values.size()) << column.name;
      if (!values.empty()) {
        EXPECT_EQ(figure["mean"].get<double>(), mean(values)) << column.name;
      }
      if (values.size() > 1) {
        EXPECT_EQ(figure["deviation"].get<double>(), standard_deviation(values)) << column.name;
      }
    }
  }
  EXPECT_EQ(table["rows"][0]["image_parse_failures"]["n"].get<int>(), 2);

  // Nothing is left to do. Other settings are not mixed into these runs.
  const Outcome again = sweep(command);
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.err, HasSubstr("4 runs: 4 finished, 0 to do"));
  EXPECT_EQ(again.out, done.out);
  const Outcome other = sweep({"--seeds", "1", configs, "--set", "optimizer.lr=1e-5"});
  EXPECT_EQ(other.code, 1) << other.err;
  EXPECT_THAT(other.err, HasSubstr("holds a run with other settings than now (optimizer.lr: 1e-05)"));
  EXPECT_THAT(other.err, Not(HasSubstr("begins")));
}

// Each run is evaluated once, and again if it has gone on.
TEST_F(SweepScript, EvaluatesItsRuns) {
  const std::string b = (folder.path() / "configs/b.yaml").string();
  const std::vector<std::string> command{
      "--evaluate", "--seeds", "1,2", "--set", "train.steps=1", "--set=train.eval_images=0", b};
  const Outcome done = sweep(command);
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_THAT(done.err, AllOf(HasSubstr("b, seed 1: evaluated in"), HasSubstr("b, seed 2: evaluated in")));
  EXPECT_EQ(done.out, file_content(out() / "table.txt") + "\n" + file_content(out() / "evaluations.txt"));
  const Outcome again = sweep(command);
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.err, Not(HasSubstr("evaluated in")));

  // The table has the figures of the documents, and the documents those of the final adapters.
  const Outcome json = testing::run_program(
      folder.path(), {program("biqa_sweep"), "evaluations", out().string(), "--format", "json"});
  const auto row = nlohmann::json::parse(json.out)["rows"][0];
  const auto document = nlohmann::json::parse(file_content(out() / "b/seed-2/evaluation.json"));
  EXPECT_EQ(row["images"].get<int>(), document["rows"][0]["n"].get<int>());
  EXPECT_EQ(row["rouge1_r_excess"]["values"][1], document["rows"][0]["texts"]["rouge1_r_excess"]);
  EXPECT_EQ(row["polarity_excess"]["values"][1], document["rows"][0]["texts"]["polarity_excess"]);
  EXPECT_TRUE(fs::exists(out() / "b/seed-1/predictions.jsonl"));
  EXPECT_EQ(row["step"].get<int>(), 1) << "the run's last";
  EXPECT_TRUE(document["rows"][0]["texts"]["similarity"].is_null());

  // With an encoder that the evaluation did not have, the figures of texts are made again, from the same answers.
  const auto with_encoder = [&](const fs::path& with) {
    std::vector<std::string> more{"--similarity-model", with.string()};
    more.insert(more.end(), command.begin(), command.end());
    return sweep(more);
  };
  const std::string predictions = file_content(out() / "b/seed-2/predictions.jsonl");
  const fs::path encoder = fs::path(BIQA_SOURCE_DIR) / "tests/fixtures/sentence";
  EXPECT_THAT(with_encoder(encoder).err,
              AllOf(HasSubstr("b, seed 1: evaluated in"), HasSubstr("b, seed 2: evaluated in")));
  auto similar = nlohmann::json::parse(file_content(out() / "b/seed-2/evaluation.json"));
  EXPECT_TRUE(similar["rows"][0]["texts"]["similarity"].is_number());
  EXPECT_EQ(similar["rows"][0]["plcc"], document["rows"][0]["plcc"]);
  EXPECT_EQ(file_content(out() / "b/seed-2/predictions.jsonl"), predictions);
  EXPECT_THAT(with_encoder(encoder).err, Not(HasSubstr("evaluated in")));
  EXPECT_THAT(sweep(command).err, Not(HasSubstr("evaluated in"))) << "it lacks nothing";
  fs::copy(encoder, folder.path() / "other", fs::copy_options::recursive);
  EXPECT_THAT(with_encoder(folder.path() / "other").err, HasSubstr("b, seed 1: evaluated in"));
  const Outcome absent = with_encoder(folder.path() / "none");
  EXPECT_EQ(absent.code, 1) << absent.err;
  EXPECT_THAT(absent.err, HasSubstr("there is no such folder"));

  const auto& adapter = out() / "b/seed-1/adapter.h5";
  fs::last_write_time(adapter,
                      fs::last_write_time(out() / "b/seed-1/evaluation.json") + std::chrono::seconds(1));
  EXPECT_THAT(sweep(command).err,
              AllOf(HasSubstr("b, seed 1: evaluated in"), Not(HasSubstr("b, seed 2: eval"))));

  // The differences to another configuration of the folder, here to the same runs.
  testing::run_program(folder.path(), {"cp", "-a", (out() / "b").string(), (out() / "c").string()});
  std::vector<std::string> compare = command;
  compare.insert(compare.begin(), {"--against", "c"});
  const Outcome compared = sweep(compare);
  EXPECT_EQ(compared.code, 0) << compared.err;
  const std::string differences = file_content(out() / "differences.txt");
  EXPECT_TRUE(compared.out.ends_with("\n" + differences));
  EXPECT_THAT(differences, AllOf(HasSubstr("differences to c, paired by seed"), HasSubstr("\nb "),
                                 HasSubstr("+0.000 [+0.000, +0.000]")));
  EXPECT_THAT(file_content(out() / "differences.csv"), HasSubstr("\n\"b\",\"c\","));
}

TEST_F(SweepScript, HelpNamesEveryCommandOfTheTables) {
  const Outcome help = testing::run_program(folder.path(), {program("biqa_sweep"), "--help"});
  for (const char* command : {"\n  table OUT ", "\n  evaluations OUT\n", "\n  state ", "\n  check "})
    EXPECT_THAT(help.out, HasSubstr(command));
}

TEST_F(SweepScript, DryRunStartsNothing) {
  const Outcome plan = sweep({"--dry-run", "--seeds", "3-4", "--np", "2",
                              (folder.path() / "configs/b.yaml").string(), "--set", "train.steps=7"});
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_THAT(plan.out, AllOf(HasSubstr("new "), HasSubstr("b/seed-3\n"), HasSubstr("b/seed-4\n"),
                              HasSubstr("local.sh -n 2"), HasSubstr("train.steps=7")));
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(SweepScript, MistakesEndBeforeAnythingRuns) {
  const std::string a = (folder.path() / "configs/a.yaml").string();
  folder.write("configs/wrong.yaml", "base: a.yaml\nrewards: {fromat: 0}\n");
  folder.write("other/a.yaml", "base: ../configs/a.yaml\n");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{}, "no configuration named"},
      {{a, "--seeds", "1,x"}, "'x' is not a number"},
      {{a, "--seeds", "1,2,1-3"}, "is there twice"},
      {{a, "--seeds"}, "--seeds needs a list"},
      {{a, "--jobs", "0"}, "--jobs needs a whole number above 0"},
      {{a, "--evaluate", "--slurm"}, "--evaluate does not work with --slurm"},
      {{a, "--similarity-model", "x"}, "no effect without --evaluate"},
      {{a, "--against", "a"}, "--against has no effect without --evaluate"},
      {{a, "--evaluate", "--against", "none"}, "--against none: no such configuration; it must be one of a"},
      {{a, "--njobs", "2"}, "unknown argument --njobs"},
      {{a, "--set", "train.seed=2"}, "name seeds with --seeds"},
      {{a, "--set", "train.out=x"}, "follow from --out"},
      {{a, (folder.path() / "other/a.yaml").string()}, "have the same name"},
      {{(folder.path() / "none.yaml").string()}, "there is no configuration"},
      {{folder.path().string()}, "has no *.yaml file"},
      {{a, (folder.path() / "configs/wrong.yaml").string()}, "unknown key rewards.fromat"},
      {{a, "--set", "rewards.format=x"}, "rewards.format"},
  };
  for (const auto& [words, message] : cases) {
    const Outcome refused = sweep(words);
    EXPECT_EQ(refused.code, 2) << refused.err;
    EXPECT_THAT(refused.errors(), ElementsAre(HasSubstr(message)));
    EXPECT_FALSE(fs::exists(out())) << message;
  }
}

// A file that a later configuration lacks would otherwise be found hours after the start.
TEST_F(SweepScript, MissingFilesEndBeforeAnythingRuns) {
  const std::string semantic = "rewards: {reasoning_kind: semantic, similarity_model: ../encoder}\n";
  folder.write("configs/c.yaml", "base: a.yaml\n" + semantic);
  folder.write("configs/d.yaml", "base: a.yaml\nmodel: {adapter: ../none}\n");
  const std::string configs = (folder.path() / "configs").string();
  const auto names = [&](const char* file, const char* key, const char* path) {
    return AllOf(HasSubstr((folder.path() / "configs" / file).string()),
                 HasSubstr(std::string(key) + " " + (folder.path() / path).string()));
  };
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"--seeds", "1,2", configs}, {"--dry-run", configs}, {"--slurm", configs}}) {
    const Outcome refused = sweep(words);
    EXPECT_EQ(refused.code, 1) << refused.err;
    EXPECT_THAT(refused.errors(), ElementsAre(names("c.yaml", "rewards.similarity_model", "encoder"),
                                              names("d.yaml", "model.adapter", "none")));
    EXPECT_FALSE(fs::exists(out()));
    // A plan is printed all the same.
    EXPECT_EQ(refused.out.find("new ") != std::string::npos, words[0] == "--dry-run") << refused.out;
  }
  // A folder that is no encoder.
  fs::create_directory(folder.path() / "encoder");
  const Outcome empty = sweep({(folder.path() / "configs/c.yaml").string()});
  EXPECT_EQ(empty.code, 1) << empty.err;
  EXPECT_THAT(empty.errors(), ElementsAre(names("c.yaml", "rewards.similarity_model", "encoder")));
  EXPECT_FALSE(fs::exists(out()));

  // A finished run needs nothing.
  const std::string c = (folder.path() / "configs/c.yaml").string();
  const Outcome resolved =
      testing::run_program(folder.path(), {program("biqa_learner"), "--config", c, "--set", "train.seed=1",
                                           "--set", "checkpoint.save_signal=SIGUSR1", "--print-config"});
  folder.write("out/c/seed-1/config.yaml", resolved.out);
  folder.write("out/c/seed-1/curves.svg", "<svg/>");
  const Outcome finished = sweep({"--dry-run", "--seeds", "1", c});
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_THAT(finished.out, HasSubstr("finished "));
}

/// With an `sbatch` that writes its arguments, and tasks that run a launch/koniq.slurm that writes what it gets.
TEST_F(SweepScript, SubmitsAJobArrayWhoseTasksAreRuns) {
  const fs::path sbatch = folder.write("bin/sbatch", "#!/bin/sh\nprintf '%s\\n' \"$@\" >\"$RECORD\"\n");
  fs::permissions(sbatch, fs::perms::owner_all);
  folder.write("launch/koniq.slurm", "echo \"$BIQA_CONFIG|$BIQA_OUT|$*\"\n");
  const fs::path record = folder.path() / "record";
  const std::string path = fmt::format("PATH={}:{}", sbatch.parent_path().string(), std::getenv("PATH"));
  const Outcome submitted = sweep({"--slurm", "--jobs", "2", "--seeds", "1,2",
                                   (folder.path() / "configs").string(), "--set", "train.steps=7"},
                                  {}, {path, "RECORD=" + record.string(), "BIQA_RANKS_PER_NODE=4"});
  ASSERT_EQ(submitted.code, 0) << submitted.err;
  const std::string arguments = file_content(record);
  EXPECT_THAT(arguments, AllOf(HasSubstr("--array=1-4%2\n"), HasSubstr("--ntasks-per-node=4\n"),
                               HasSubstr("launch/sweep.slurm\n"), HasSubstr("--set\ntrain.steps=7\n")));
  const std::size_t at = arguments.find("/array-");
  ASSERT_NE(at, std::string::npos);
  const fs::path list = out() / arguments.substr(at + 1, arguments.find('\n', at) - at - 1);
  const auto task = [&](const char* number) {
    return testing::run_program(
        folder.path(),
        {"env", "BIQA_HOME=" + folder.path().string(), std::string("SLURM_ARRAY_TASK_ID=") + number, "bash",
         (kSource / "launch/sweep.slurm").string(), list.string(), "--set", "train.steps=7"});
  };
  const fs::path configs = folder.path() / "configs";
  EXPECT_EQ(task("3").out, fmt::format("{}|{}|--set train.steps=7 --set train.seed=1\n",
                                       (configs / "b.yaml").string(), (out() / "b/seed-1").string()));
  EXPECT_EQ(task("2").out, fmt::format("{}|{}|--set train.steps=7 --set train.seed=2\n",
                                       (configs / "a.yaml").string(), (out() / "a/seed-2").string()));
  EXPECT_EQ(task("5").code, 2);
}

}  // namespace
}  // namespace biqa
