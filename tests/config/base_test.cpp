// SPDX-License-Identifier: Apache-2.0
// Configurations that hold only their differences from a base.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "config/config.h"
#include "core/error.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class BaseTest : public testing::Test {
 protected:
  Config load(const std::string& name, const std::vector<std::string>& overrides = {}) const {
    return load_config(folder.path() / name, overrides);
  }
  std::string message(const std::string& name, const std::vector<std::string>& overrides = {}) const {
    try {
      load(name, overrides);
    } catch (const Error& problem) {
      EXPECT_EQ(problem.code(), ExitCode::usage) << problem.what();
      return problem.what();
    }
    return "";
  }

  TemporaryFolder folder;
};

TEST_F(BaseTest, MapsMergeAndOtherValuesReplace) {
  folder.write("base.yaml",
               "rollout: {group_size: 8, temperature: 0.5}\nlora: {targets: [q_proj, k_proj]}\n"
               "data: {eval: [a.jsonl, b.jsonl]}\ntrain: {seed: 7, out: runs/base}\n"
               "prompts: {system: \"S\"}\nmodel: {max_pixels: 50176}\n");
  folder.write("own.yaml",
               "base: base.yaml\nrollout: {group_size: 4}\nlora: {targets: [down_proj]}\n"
               "data: {eval: c.jsonl}\nprompts: {system: null}\nstage2: {enabled: false}\nrewards:\n");
  const Config own = load("own.yaml");
  EXPECT_EQ(own.rollout.group_size, 4);
  EXPECT_EQ(own.rollout.temperature, 0.5);
  EXPECT_THAT(own.lora.targets, ElementsAre(Projection::down));
  EXPECT_THAT(own.data.eval, ElementsAre(folder.path() / "c.jsonl"));
  EXPECT_EQ(own.train.seed, 7U);
  EXPECT_EQ(own.train.out, fs::current_path() / "runs/base");
  EXPECT_EQ(own.prompts.texts.system, std::nullopt);
  EXPECT_FALSE(own.stage2.enabled);
  EXPECT_TRUE(own.model.max_pixels_given);
  EXPECT_FALSE(own.model.min_pixels_given);
  EXPECT_EQ(own.file, folder.path() / "own.yaml");
  // The base itself is as before.
  EXPECT_EQ(load("base.yaml").rollout.group_size, 8);
}

// Its points belong together: those of the base would make it another one.
TEST_F(BaseTest, AScheduleReplacesTheOneOfTheBase) {
  folder.write("base.yaml", "rewards: {reasoning: {0: 0, 100: 1}, format: {0: 2, 10: 1}}\n");
  folder.write("own.yaml", "base: base.yaml\nrewards: {reasoning: {50: 1, 80: 3}, format: 0.5}\n");
  const Config own = load("own.yaml");
  EXPECT_EQ(own.rewards.weights.at(reward_column("reasoning")), WeightSchedule({{50, 1}, {80, 3}}));
  EXPECT_EQ(own.rewards.weights.at(reward_column("format")), WeightSchedule(0.5));
}

// An empty section changes nothing, at whatever depth of the chain.
TEST_F(BaseTest, ChainsAndEmptyFiles) {
  folder.write("a.yaml", "rewards: {prediction: 2, format: 3}\ntrain: {seed: 1}\n");
  folder.write("b.yaml", "base: a.yaml\nrewards:\n");
  folder.write("c.yaml", "base: b.yaml\nrewards: {format: 4}\n");
  folder.write("d.yaml", "base: c.yaml\n");
  const Config d = load("d.yaml");
  EXPECT_EQ(d.rewards.weights.at(reward_column("prediction")), 2);
  EXPECT_EQ(d.rewards.weights.at(reward_column("format")), 4);
  EXPECT_EQ(d.train.out, fs::current_path() / "runs" / "d");
  EXPECT_EQ(to_yaml(load("b.yaml", {"train.out=x"})), to_yaml(load("a.yaml", {"train.out=x"})));
  folder.write("empty.yaml", "");
  folder.write("on_empty.yaml", "base: empty.yaml\ntrain: {seed: 5}\n");
  EXPECT_EQ(load("on_empty.yaml").train.seed, 5U);
  // The resolved text has no base and gives the same configuration.
  const std::string resolved = to_yaml(d);
  EXPECT_THAT(resolved, Not(HasSubstr("base:")));
  folder.write("elsewhere/config.yaml", resolved);
  EXPECT_EQ(to_yaml(load("elsewhere/config.yaml")), resolved);
}

TEST_F(BaseTest, PathsStartAtTheFileThatTheyStandIn) {
  folder.write("shared/base.yaml",
               "model: {path: ../models/m, adapter: warm}\ndata: {train: t.jsonl, eval: [e.jsonl]}\n"
               "checkpoint: {resume: old}\n");
  folder.write("mine/own.yaml", "base: ../shared/base.yaml\ndata: {eval: [e.jsonl]}\n");
  const Config own = load("mine/own.yaml", {"model.adapter=a"});
  EXPECT_EQ(own.model.path, folder.path() / "models/m");
  EXPECT_EQ(own.data.train, folder.path() / "shared/t.jsonl");
  EXPECT_EQ(own.checkpoint.resume, (folder.path() / "shared/old").string());
  EXPECT_THAT(own.data.eval, ElementsAre(folder.path() / "mine/e.jsonl"));
  EXPECT_EQ(own.model.adapter, folder.path() / "mine/a");
  EXPECT_EQ(own.train.out, fs::current_path() / "runs" / "own");
}

TEST_F(BaseTest, RolesAndObjectiveReplaceCleanly) {
  folder.write("counts.yaml",
               "roles: {actors: 4, rewards: 1, learners: 2}\nobjective: {beta: 0.5, loss: dapo}\n");
  folder.write("auto.yaml", "base: counts.yaml\nroles: auto\nobjective: sft\n");
  folder.write("again.yaml", "base: auto.yaml\nroles: {actors: 3, learners: 1}\nobjective: {kl: k1}\n");
  folder.write("more.yaml", "base: counts.yaml\nroles: {actors: 8}\n");
  const Config automatic = load("auto.yaml");
  EXPECT_TRUE(automatic.roles.automatic);
  EXPECT_EQ(automatic.objective.loss.loss, Loss::sft);
  EXPECT_EQ(automatic.objective.loss.beta, 0.5);
  const Config again = load("again.yaml");
  EXPECT_FALSE(again.roles.automatic);
  EXPECT_EQ(again.roles.actors, 3);
  EXPECT_EQ(again.roles.rewards, 0);
  EXPECT_EQ(again.objective.loss.loss, Loss::sft);
  EXPECT_EQ(load("more.yaml").roles.actors, 8);
  EXPECT_EQ(load("more.yaml").roles.learners, 2);
  // A setting behind the short form keeps the loss.
  EXPECT_EQ(load("auto.yaml", {"objective.beta=0"}).objective.loss.loss, Loss::sft);
}

TEST_F(BaseTest, OverridesAndOldNamesWorkOnTop) {
  folder.write("base.yaml", "rollout: {max_policy_lag: 1, group_size: 8}\n");
  folder.write("own.yaml", "base: base.yaml\nrollout: {policy_lag: 2}\n");
  EXPECT_EQ(load("base.yaml").rollout.policy_lag, 1);
  EXPECT_EQ(load("own.yaml").rollout.policy_lag, 2);
  EXPECT_EQ(load("own.yaml", {"rollout.max_policy_lag=3"}).rollout.policy_lag, 3);
  EXPECT_EQ(load("own.yaml", {"rollout.group_size=16"}).rollout.group_size, 16);
  EXPECT_THAT(message("own.yaml", {"base=base.yaml"}),
              AllOf(HasSubstr("cannot use --set base=base.yaml"), HasSubstr("only a file")));
}

// Each mistake is reported with the file and line in which it stands, also if a file above replaces the value.
TEST_F(BaseTest, MistakesNameTheirFileAndLine) {
  folder.write("base.yaml", "train: {seed: 1}\nrollout:\n  group_size: 8\n");
  folder.write("unknown.yaml", "train: {seed: 1}\nrollout:\n  group_sise: 8\n");
  folder.write("wrong.yaml", "train: {seed: 1}\nrollout:\n  group_size: eight\n");
  folder.write("twice.yaml", "train: {seed: 1}\ntrain: {steps: 2}\n");
  folder.write("section.yaml", "base: base.yaml\nrollout: 3\n");
  folder.write("pair.yaml", "base: base.yaml\n\nrollout: {group_size: 1}\n");
  folder.write("roles.yaml", "roles: {actors: 4, rewards: 1, learners: 2}\n");
  folder.write("no_roles.yaml", "base: roles.yaml\nroles:\n");
  for (const auto& [base, expected] : std::vector<std::pair<std::string, std::string>>{
           {"unknown", "unknown.yaml:3"}, {"wrong", "wrong.yaml:3"}, {"twice", "twice.yaml:2"}}) {
    folder.write("own.yaml", "base: " + base + ".yaml\nrollout: {group_size: 4}\n");
    EXPECT_THAT(message("own.yaml"), HasSubstr(expected));
  }
  EXPECT_THAT(message("section.yaml"), AllOf(HasSubstr("section.yaml:2"), HasSubstr("a section of")));
  EXPECT_THAT(message("pair.yaml"), AllOf(HasSubstr("pair.yaml:3"), HasSubstr("at least 2")));
  EXPECT_THAT(message("no_roles.yaml"),
              AllOf(HasSubstr("no_roles.yaml:2"), HasSubstr("nothing is not auto")));
  folder.write("own.yaml", "base: base.yaml\nrollot: {}\n");
  EXPECT_THAT(message("own.yaml"), AllOf(HasSubstr("own.yaml:2"), HasSubstr("nearest is rollout")));
  folder.write("own.yaml", "bse: base.yaml\n");
  EXPECT_THAT(message("own.yaml"), AllOf(HasSubstr("own.yaml:1"), HasSubstr("nearest is base")));
}

TEST_F(BaseTest, BasesThatCannotBeUsed) {
  folder.write("a.yaml", "train: {}\nbase: b.yaml\n");
  folder.write("b.yaml", "base: sub/../c.yaml\n");
  folder.write("c.yaml", "base: a.yaml\n");
  folder.write("sub/x.yaml", "");
  EXPECT_THAT(message("a.yaml"), AllOf(HasSubstr("c.yaml:1"), HasSubstr("a cycle")));
  folder.write("self.yaml", "base: self.yaml\n");
  EXPECT_THAT(message("self.yaml"), AllOf(HasSubstr("self.yaml:1"), HasSubstr("a cycle")));
  folder.write("missing.yaml", "\nbase: no.yaml\n");
  EXPECT_THAT(message("missing.yaml"), AllOf(HasSubstr("missing.yaml:2"), HasSubstr("there is no file")));
  for (const char* value : {"", "[a.yaml, b.yaml]", "{a: b}", "\"\"", "~"}) {
    folder.write("odd.yaml", fmt::format("base: {}\n", value));
    EXPECT_THAT(message("odd.yaml"),
                AllOf(HasSubstr("odd.yaml:1"), HasSubstr("the path of a configuration")));
  }
  folder.write("twice.yaml", "base: b.yaml\nbase: c.yaml\n");
  EXPECT_THAT(message("twice.yaml"), AllOf(HasSubstr("twice.yaml:2"), HasSubstr("given twice")));
  for (int i = 0; i < 17; ++i)
    folder.write(fmt::format("{}.yaml", i), i == 0 ? std::string() : fmt::format("base: {}.yaml\n", i - 1));
  EXPECT_EQ(message("15.yaml"), "");
  EXPECT_THAT(message("16.yaml"), HasSubstr("more than 16 files"));
}

}  // namespace
}  // namespace biqa
