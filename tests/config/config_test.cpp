// SPDX-License-Identifier: Apache-2.0
#include "config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <regex>
#include <sstream>

#include "core/error.h"
#include "io/yaml.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const fs::path kSource = BIQA_SOURCE_DIR;

class ConfigTest : public testing::Test {
 protected:
  Config load(const std::string& yaml, const std::vector<std::string>& overrides = {}) const {
    return load_config(folder.write("run.yaml", yaml), overrides);
  }
  std::string message(const std::string& yaml, const std::vector<std::string>& overrides = {}) const {
    try {
      load(yaml, overrides);
    } catch (const Error& problem) {
      EXPECT_EQ(problem.code(), ExitCode::usage) << problem.what();
      EXPECT_EQ(std::string(problem.what()).find('\n'), std::string::npos) << problem.what();
      return problem.what();
    }
    return "";
  }

  TemporaryFolder folder;
};

TEST_F(ConfigTest, TheOldNameOfPolicyLagStillWorks) {
  const Config now = load("rollout: {policy_lag: 2}");
  EXPECT_EQ(now.rollout.policy_lag, 2);
  EXPECT_EQ(load("rollout: {max_policy_lag: 2}").rollout.policy_lag, 2);
  EXPECT_EQ(load("", {"rollout.max_policy_lag=2"}).rollout.policy_lag, 2);
  EXPECT_EQ(load("rollout: {max_policy_lag: 1}", {"rollout.policy_lag=2"}).rollout.policy_lag, 2);
  EXPECT_EQ(load("rollout: {policy_lag: 1}", {"rollout.max_policy_lag=2"}).rollout.policy_lag, 2);
  EXPECT_THAT(message("rollout: {policy_lag: 1, max_policy_lag: 1}"),
              AllOf(HasSubstr("rollout.max_policy_lag"), HasSubstr("old name of policy_lag")));
  // A checkpoint from before has the same settings.
  std::string then = to_yaml(now);
  const std::size_t key = then.find("policy_lag: 2");
  ASSERT_NE(key, std::string::npos);
  then.insert(key, "max_");
  EXPECT_THAT(changed_settings(then, now), ElementsAre());
}

TEST_F(ConfigTest, DefaultsAreThoseOfTheContract) {
  const Config c = load("");
  EXPECT_EQ(c.model.dtype, DType::bf16);
  EXPECT_EQ(c.model.device, "cpu");
  EXPECT_EQ(c.model.max_pixels, 401408);
  EXPECT_EQ(c.model.min_pixels, 3136);
  EXPECT_EQ(c.lora.rank, 8);
  EXPECT_EQ(c.lora.targets.size(), 7U);
  EXPECT_EQ(c.rollout.group_size, 4);
  EXPECT_EQ(c.rollout.images_per_step, 64);
  EXPECT_EQ(c.rollout.kv_memory, std::uint64_t{4} << 30);
  EXPECT_EQ(c.rewards.tolerance, 0.35);
  EXPECT_EQ(c.rewards.rouge, RougeKind::precision);
  EXPECT_EQ(c.rewards.reasoning_kind, ReasoningKind::rouge);
  EXPECT_EQ(c.objective.loss.loss, Loss::grpo);
  EXPECT_EQ(c.objective.loss.beta, 0.001);
  EXPECT_EQ(c.objective.micro_batch_tokens, 8192);
  EXPECT_EQ(c.optimizer.lr, 1e-6);
  EXPECT_EQ(c.train.epochs, 2);
  EXPECT_EQ(c.train.seed, 42U);
  EXPECT_EQ(c.train.out, fs::current_path() / "runs" / "run");
  EXPECT_EQ(c.checkpoint.save_signal, "SIGUSR1");
  EXPECT_TRUE(c.roles.automatic);
  EXPECT_FALSE(c.roles.colocated);
  EXPECT_EQ(c.prompts.profile, "paper");
  EXPECT_EQ(c.prompts.texts.profile.rating_tag, "rating");
  EXPECT_EQ(c.prompts.texts.system, std::nullopt);
}

TEST_F(ConfigTest, ReadsEverySectionAndResolvesPaths) {
  const Config c = load(R"(
model: {path: ../m/, adapter: sub/a, dtype: f32, threads: 3}
lora: {rank: 2, alpha: 4, dropout: 0.5, targets: [q_proj, down_proj]}
data: {train: t.jsonl, eval: [e.jsonl, /abs/f.jsonl], annotation_fraction: 0.25}
prompts: {profile: released, system: null, user: "Say: it", stage2_system: "S", stage2_user: "<{caption}>"}
rollout: {group_size: 8, kv_memory: 1.5GiB, temperature: +0.7, top_k: 5, top_p: 0.9}
stage2: {enabled: false, input: caption+reasoning, train: true, leak_guard: penalise}
rewards: {prediction: 2, rouge: f1, rouge_span: before_rating, prediction_shape: binary, reasoning_kind: mix, similarity_model: ../s}
objective: {loss: cispo, clip_high: 5, kl: k3_times_ratio, advantage: normalise_then_sum, ratio_cap: 2, recompute_layers: true}
optimizer: {lr: 2e-3, schedule: cosine, beta1: .8}
train: {steps: 50, out: here, dump_steps: [1, 10], eval_decodings: greedy}
checkpoint: {resume: old/step-000010, save_signal: none, best: none}
roles: {actors: 5, rewards: 1, learners: 2}
placement: split
)");
  EXPECT_EQ(c.model.path, folder.path().parent_path() / "m");
  EXPECT_EQ(c.model.adapter, folder.path() / "sub/a");
  EXPECT_EQ(c.model.threads, 3);
  EXPECT_THAT(c.lora.targets, ElementsAre(Projection::q, Projection::down));
  EXPECT_EQ(c.data.train, folder.path() / "t.jsonl");
  EXPECT_THAT(c.data.eval, ElementsAre(folder.path() / "e.jsonl", fs::path("/abs/f.jsonl")));
  EXPECT_EQ(c.prompts.texts.profile.rating_tag, "answer");
  EXPECT_EQ(c.prompts.texts.user, "Say: it");
  EXPECT_EQ(c.prompts.texts.stage2_system, "S");
  EXPECT_EQ(c.rollout.kv_memory, std::uint64_t{3} << 29);
  EXPECT_EQ(c.rollout.temperature, 0.7);
  EXPECT_FALSE(c.stage2.enabled);
  EXPECT_EQ(c.stage2.input, Stage2Input::caption_reasoning);
  EXPECT_TRUE(c.rewards.penalise_leak);
  EXPECT_EQ(c.rewards.weights.at(reward_column("prediction")), 2);
  EXPECT_EQ(c.rewards.rouge_span, RougeSpan::before_rating);
  EXPECT_EQ(c.rewards.reasoning_kind, ReasoningKind::mix);
  EXPECT_EQ(c.rewards.similarity_model, folder.path().parent_path() / "s");
  EXPECT_EQ(c.objective.loss.loss, Loss::cispo);
  EXPECT_EQ(c.objective.loss.ratio_cap, 2.0);
  EXPECT_EQ(c.objective.loss.off_policy_mask, std::nullopt);
  EXPECT_EQ(c.optimizer.adamw.beta1, 0.8);
  EXPECT_EQ(c.train.out, fs::current_path() / "here");
  EXPECT_THAT(c.train.dump_steps, ElementsAre(1, 10));
  EXPECT_THAT(c.train.eval_decodings, ElementsAre("greedy"));
  EXPECT_EQ(c.checkpoint.resume, (folder.path() / "old/step-000010").string());
  EXPECT_FALSE(c.roles.automatic);
  EXPECT_EQ(c.roles.actors, 5);
  EXPECT_EQ(c.roles.learners, 2);
}

TEST_F(ConfigTest, ResolvedTextRoundTrips) {
  const Config c = load(
      "model: {path: m}\nprompts: {system: \"null\", user: \"a: \\\"b\\\"\\n{x}é\"}\n"
      "optimizer: {lr: 0.1, eps: 1.2345678901234567e-8}\nobjective: {off_policy_mask: 0.3}\n"
      "rollout: {kv_memory: 1500000}\nroles: {actors: 1, rewards: 0, learners: 3}\n");
  const std::string yaml = to_yaml(c);
  TemporaryFolder other;
  const Config again = load_config(other.write("elsewhere/config.yaml", yaml));
  EXPECT_EQ(to_yaml(again), yaml);
  EXPECT_EQ(again.prompts.texts.system, "null");
  EXPECT_EQ(again.prompts.texts.user, "a: \"b\"\n{x}é");
  EXPECT_EQ(again.optimizer.adamw.eps, 1.2345678901234567e-8);
  EXPECT_EQ(again.model.path, c.model.path);
  EXPECT_EQ(again.train.out, c.train.out);
  EXPECT_EQ(again.rollout.kv_memory, 1500000U);
  EXPECT_EQ(again.roles.learners, 3);
  for (const std::string& key : config_keys()) {
    const std::size_t dot = key.find('.');
    const std::string line = dot == std::string::npos ? key : fmt::format("  {}", key.substr(dot + 1));
    EXPECT_THAT(yaml, HasSubstr(fmt::format("\n{}: ", line)));
  }
}

TEST_F(ConfigTest, UnknownKeysNameTheNearest) {
  EXPECT_THAT(message("rollout:\n  group_sise: 4\n"),
              AllOf(HasSubstr("unknown key rollout.group_sise"), HasSubstr("run.yaml:2"),
                    HasSubstr("nearest is rollout.group_size"), HasSubstr("images_per_step")));
  EXPECT_THAT(message("train: {lr: 1}\n"), HasSubstr("nearest is optimizer.lr"));
  EXPECT_THAT(
      message("optimiser: {lr: 1}\n"),
      AllOf(HasSubstr("unknown key optimiser"), HasSubstr("nearest is optimizer"), HasSubstr("placement")));
  EXPECT_THAT(message("lr: 1\n"), HasSubstr("nearest is optimizer.lr"));
  EXPECT_THAT(message("'': 1\n"), HasSubstr("unknown key"));
  EXPECT_THAT(message("model: {'': 1}\n"), HasSubstr("unknown key"));
  EXPECT_THAT(message("roles: {actors: 1, learners: 1, reward: 2}\n"), HasSubstr("unknown key roles.reward"));
  EXPECT_THAT(message("model: {path: a}\nmodel: {path: b}\n"), HasSubstr("given twice"));
}

TEST_F(ConfigTest, WrongTypesAndRangesNameKeyLineAndBounds) {
  const std::vector<std::array<std::string, 3>> cases{
      {"rollout: {group_size: four}", "rollout.group_size", "whole number from 1"},
      {"rollout: {group_size: \"4\"}", "rollout.group_size", "whole number"},
      {"rollout: {group_size: 4.5}", "rollout.group_size", "whole number"},
      {"rollout: {group_size: 99999999999999999999}", "rollout.group_size", "whole number"},
      {"rollout: {group_size: }", "rollout.group_size", "nothing"},
      {"rollout: {group_size: [4]}", "rollout.group_size", "a list"},
      {"rollout: {group_size: 1}", "rollout.group_size", "at least 2"},
      {"rollout: {temperature: 0}", "rollout.temperature", "of at least 0.01"},
      {"rollout: {top_p: 1.1}", "rollout.top_p", "at most 1"},
      {"rollout: {kv_memory: 4 GB of it}", "rollout.kv_memory", "4GiB"},
      {"rollout: {kv_memory: -1}", "rollout.kv_memory", "4GiB"},
      {"rollout: {kv_memory: 1e300GiB}", "rollout.kv_memory", "4GiB"},
      {"lora: {dropout: 1}", "lora.dropout", "at most 0.99"},
      {"lora: {targets: [q_proj, x_proj]}", "lora.targets", "one of q_proj"},
      {"lora: {targets: [q_proj, q_proj]}", "lora.targets", "twice"},
      {"lora: {targets: []}", "lora.targets", "at least one"},
      {"optimizer: {lr: .nan}", "optimizer.lr", "a number"},
      {"optimizer: {lr: nan}", "optimizer.lr", "a number"},
      {"optimizer: {lr: -1e-6}", "optimizer.lr", "0 or a number of at least 1e-15"},
      {"optimizer: {lr: 1e999}", "optimizer.lr", "a number"},
      {"rewards: {format: much}", "rewards.format", "{0: 0, 100: 1}"},
      {"rewards: {format: {}}", "rewards.format", "at least one step"},
      {"rewards: {format: {0: 0, 100: -1}}", "rewards.format.100", "a number of at least 0"},
      {"rewards: {format: {now: 1}}", "rewards.format", "'now' is not a whole number"},
      {"rewards: {format: {-1: 1}}", "rewards.format", "whole number from 0"},
      {"rewards: {format: {1: 0, 0x1: 1}}", "rewards.format", "step 1 is there twice"},
      {"rewards: {format: [0, 1]}", "rewards.format", "a list"},
      {"rewards: {stall_steps: -1}", "rewards.stall_steps", "whole number from 0"},
      {"objective: {credit: token}", "objective.credit", "whole, parts"},
      {"model: {dtype: f16}", "model.dtype", "one of bf16, f32"},
      {"model: {device: gpu}", "model.device", "one of cpu, cuda"},
      {"model: {vision_attention: flash}", "model.vision_attention", "one of own, cudnn"},
      {"model: {vision_attention: cudnn}", "model.vision_attention", "model.device: cuda"},
      {"model: {path: [a]}", "model.path", "a list"},
      {"model: 3", "model", "section"},
      {"model: {min_pixels: 500000}", "model.min_pixels", "max_pixels"},
      {"rewards: {reasoning_kind: bleu}", "rewards.reasoning_kind", "one of rouge, semantic"},
      {"rewards: {reasoning_kind: semantic}", "rewards.reasoning_kind", "rewards.similarity_model"},
      {"stage2: {enabled: yes}", "stage2.enabled", "true or false"},
      {"stage2: {enabled: off}", "stage2.enabled", "true or false"},
      {"stage2: {enabled: 1}", "stage2.enabled", "true or false"},
      {"stage2: {enabled: 'true'}", "stage2.enabled", "'true' in quotes is not true or false"},
      {"rollout: {temperature: '1.5'}", "rollout.temperature", "'1.5' in quotes is not a number"},
      {"stage2: {enabled: ~}", "stage2.enabled", "nothing is not true or false"},
      {"rollout: {group_size: 1_000}", "rollout.group_size", "whole number"},
      {"rollout: {group_size: +-4}", "rollout.group_size", "whole number"},
      {"optimizer: {max_grad_norm: .inf}", "optimizer.max_grad_norm", "at most"},
      {"prompts: {profile: mine}", "prompts.profile", "paper, released"},
      {"prompts: {stage2_user: rate it}", "prompts.stage2_user", "{caption}"},
      {"train: {dump_steps: [0]}", "train.dump_steps", "from 1"},
      {"train: {seed: -1}", "train.seed", "from 0"},
      {"roles: some", "roles", "auto or"},
      {"roles: {actors: 1}", "roles", "learners"},
      {"roles: {actors: 1, rewards: 0, learners: 1}\nplacement: colocated", "roles", "auto"},
      {"placement: apart", "placement", "split, colocated"},
      {"- a", "", "sections"},
      {"model: {path: [}", "", "syntax"},
  };
  for (const auto& [yaml, key, expected] : cases) {
    EXPECT_THAT(message(fmt::format("\n{}", yaml)),
                AllOf(HasSubstr("run.yaml:2"), HasSubstr(key), HasSubstr(expected)))
        << yaml;
  }
}

TEST_F(ConfigTest, WordsOfTheCoreSchema) {
  const Config c = load("stage2: {train: TRUE}\ndata: {skip_bad: True}\nprompts: {system: ~}\n",
                        {"train.progress=False", "stage2.enabled=FALSE", "prompts.stage2_system=Null",
                         "rollout.group_size=0x10", "rollout.images_per_step=1e1", "train.seed=0o17",
                         "rollout.kv_memory=0x10000000", "optimizer.lr=+1e-5", "prompts.user=yes"});
  EXPECT_TRUE(c.stage2.train);
  EXPECT_TRUE(c.data.skip_bad);
  EXPECT_FALSE(c.train.progress);
  EXPECT_FALSE(c.stage2.enabled);
  EXPECT_EQ(c.prompts.texts.system, std::nullopt);
  EXPECT_EQ(c.prompts.texts.stage2_system, std::nullopt);
  EXPECT_EQ(c.rollout.group_size, 16);
  EXPECT_EQ(c.rollout.images_per_step, 10);
  EXPECT_EQ(c.train.seed, 15U);
  EXPECT_EQ(c.rollout.kv_memory, std::uint64_t{1} << 28);
  EXPECT_EQ(c.optimizer.lr, 1e-5);
  EXPECT_EQ(c.prompts.texts.user, "yes");
}

// What f32 makes infinite or 0 is refused, not computed with.
TEST_F(ConfigTest, NumbersThatTheArithmeticCannotBear) {
  for (const char* setting : {"rollout.temperature=1e-38",
                              "rollout.temperature=1e-300",
                              "rollout.temperature=0.001",
                              "lora.alpha=1e300",
                              "lora.alpha=1e-46",
                              "lora.dropout=0.99999999999",
                              "rewards.prediction=1e300",
                              "rewards.tolerance=1e-300",
                              "rewards.tolerance=1e300",
                              "objective.clip_high=1e300",
                              "objective.beta=1e39",
                              "objective.ratio_cap=1e300",
                              "objective.off_policy_mask=1e300",
                              "optimizer.lr=1e38",
                              "optimizer.lr=1e-60",
                              "optimizer.beta1=0.99999999999",
                              "optimizer.beta2=0.99999999999",
                              "optimizer.eps=1e-46",
                              "optimizer.eps=1e39",
                              "optimizer.weight_decay=1e38",
                              "optimizer.max_grad_norm=1e-46",
                              "optimizer.max_grad_norm=1e300"}) {
    const std::string key = std::string(setting).substr(0, std::string(setting).find('='));
    EXPECT_THAT(message("", {setting}), AllOf(HasSubstr(key), HasSubstr("a number "))) << setting;
  }
  // 0 has a meaning of its own; a tiny top_p is the likeliest token.
  EXPECT_EQ(message("", {"optimizer.lr=0", "optimizer.max_grad_norm=0", "rollout.top_p=1e-300"}), "");
}

TEST_F(ConfigTest, ChangedSettingsAreNamedAsTheyAreSet) {
  const std::string then = to_yaml(load("model: {path: m}\nroles: auto\n"));
  EXPECT_THAT(changed_settings(then, load("model: {path: m}\n")), ElementsAre());
  EXPECT_THAT(changed_settings(then, load("model: {path: m}\noptimizer: {lr: 0.5}\nplacement: colocated\n")),
              ElementsAre("optimizer.lr: 0.5", "placement: colocated"));
  EXPECT_THAT(changed_settings(then, load("model: {path: m}\nroles: {actors: 1, rewards: 0, learners: 1}\n")),
              ElementsAre("roles: {actors: 1, rewards: 0, learners: 1}"));
}

TEST_F(ConfigTest, OverridesReplaceAndAreNamed) {
  const Config c = load(
      "rollout: {group_size: 4}\nroles: auto\n",
      {"rollout.group_size=8", "rollout.group_size=16", "model.path=m", "data.eval=[a, b]", "roles.actors=2",
       "roles.learners=1", "prompts.user='a: b = c'", "objective=sft", "model.adapter="});
  EXPECT_EQ(c.rollout.group_size, 16);
  EXPECT_EQ(c.model.path, folder.path() / "m");
  EXPECT_EQ(c.data.eval.size(), 2U);
  EXPECT_EQ(c.roles.actors, 2);
  EXPECT_EQ(c.prompts.texts.user, "a: b = c");
  EXPECT_EQ(c.objective.loss.loss, Loss::sft);
  EXPECT_TRUE(c.model.adapter.empty());
  EXPECT_THAT(message("", {"rollout.group_size=x"}),
              HasSubstr("rollout.group_size at --set rollout.group_size"));
  EXPECT_THAT(message("", {"rollout.grup_size=8"}), HasSubstr("nearest is rollout.group_size"));
  for (const char* text :
       {"rollout.group_size", "=8", ".a=1", "a.=1", "rollout..group_size=1", "a.b.c=1", "x=[", ""}) {
    EXPECT_NE(message("", {text}), "") << text;
  }
}

TEST_F(ConfigTest, ObjectiveByNameAndGroupsOfOneForIt) {
  const Config c = load("objective: sft\nrollout: {group_size: 1}\n");
  EXPECT_EQ(c.objective.loss.loss, Loss::sft);
  EXPECT_THAT(message("objective: nothing\n"), HasSubstr("objective.loss"));
}

TEST_F(ConfigTest, WeightsOfRewardsMayChangeOverTheRun) {
  const Config c = load("rewards: {prediction: 2, reasoning: {100: 1.5, 0: 0, 0x10: .25}}",
                        {"rewards.format={10: 1, 20: 0}", "rewards.consistency.5=3"});
  EXPECT_EQ(c.rewards.weights[reward_column("prediction")], WeightSchedule(2));
  EXPECT_EQ(c.rewards.weights[reward_column("reasoning")], WeightSchedule({{0, 0}, {16, 0.25}, {100, 1.5}}));
  EXPECT_EQ(c.rewards.weights[reward_column("format")], WeightSchedule({{10, 1}, {20, 0}}));
  EXPECT_EQ(c.rewards.weights[reward_column("consistency")], WeightSchedule(3));
  EXPECT_THAT(to_yaml(c), HasSubstr("\n  reasoning: {0: 0, 16: 0.25, 100: 1.5}\n"));
  const Config again = load(to_yaml(c));
  EXPECT_EQ(again.rewards.weights, c.rewards.weights);
  EXPECT_THAT(changed_settings(to_yaml(c), load(to_yaml(c), {"rewards.format={10: 1, 21: 0}"})),
              ElementsAre("rewards.format: {10: 1, 21: 0}"));
}

TEST_F(ConfigTest, CreditByPartsNeedsARatioPerToken) {
  EXPECT_EQ(load("").objective.credit, CreditAssignment::whole);
  EXPECT_EQ(load("objective: {credit: parts}").objective.credit, CreditAssignment::parts);
  EXPECT_THAT(message("objective: {loss: gspo, credit: parts}"),
              AllOf(HasSubstr("objective.credit at"), HasSubstr("run.yaml:1"), HasSubstr("gspo"),
                    HasSubstr("credit: whole")));
  EXPECT_EQ(message("objective: {loss: sft, credit: parts}"), "") << "it has no advantages";
}

TEST_F(ConfigTest, AttentionByCudnnNeedsCudaAndBf16) {
  EXPECT_EQ(load("").model.vision_attention, VisionAttentionBy::own);
  EXPECT_EQ(load("model: {device: cuda, vision_attention: cudnn}").model.vision_attention,
            VisionAttentionBy::cudnn);
  EXPECT_THAT(message("model: {device: cuda, dtype: f32, vision_attention: cudnn}"),
              AllOf(HasSubstr("model.vision_attention at"), HasSubstr("run.yaml:1"), HasSubstr("f32"),
                    HasSubstr("vision_attention: own")));
  EXPECT_EQ(message("model: {device: cuda, dtype: f32}"), "");
}

TEST_F(ConfigTest, DefaultsThatDependOnTheLoss) {
  const Config grpo = load("");
  EXPECT_EQ(grpo.objective.loss.clip_high, 0.2);
  EXPECT_FALSE(grpo.objective.drop_zero_variance);
  EXPECT_FALSE(grpo.objective.mask_truncated);
  const Config dapo = load("objective: {loss: dapo}");
  EXPECT_EQ(dapo.objective.loss.clip_low, 0.2);
  EXPECT_EQ(dapo.objective.loss.clip_high, 0.28);
  EXPECT_TRUE(dapo.objective.drop_zero_variance);
  EXPECT_TRUE(dapo.objective.mask_truncated);
  EXPECT_EQ(load("", {"objective.loss=cispo"}).objective.loss.clip_high, 5);
  EXPECT_EQ(load("objective: cispo").objective.loss.clip_high, 5);
  EXPECT_EQ(grpo.rollout.refill_rounds, 0);
  EXPECT_EQ(dapo.rollout.refill_rounds, 3);
  EXPECT_EQ(load("objective: {loss: dapo}", {"rollout.policy_lag=1"}).rollout.refill_rounds, 0);
  EXPECT_EQ(load("objective: {loss: dapo, drop_zero_variance: false}").rollout.refill_rounds, 0);
  EXPECT_EQ(load("objective: {loss: dapo}", {"rollout.refill_rounds=5"}).rollout.refill_rounds, 5);
  EXPECT_THAT(message("", {"rollout.refill_rounds=1"}),
              AllOf(HasSubstr("rollout.refill_rounds at"), HasSubstr("drop_zero_variance: true")));
  EXPECT_THAT(message("objective: dapo", {"rollout.refill_rounds=1", "rollout.policy_lag=2"}),
              AllOf(HasSubstr("rollout.refill_rounds at"), HasSubstr("rollout.policy_lag 2")));
  // What is written stays, also in the resolved text.
  const Config own = load("objective: {loss: dapo, clip_high: 0.2, drop_zero_variance: false}",
                          {"objective.mask_truncated=false"});
  EXPECT_EQ(own.objective.loss.clip_high, 0.2);
  EXPECT_FALSE(own.objective.drop_zero_variance);
  EXPECT_FALSE(own.objective.mask_truncated);
  EXPECT_EQ(to_yaml(load(to_yaml(own))), to_yaml(own));
  EXPECT_EQ(to_yaml(load(to_yaml(dapo))), to_yaml(dapo));
}

TEST_F(ConfigTest, TrainingNeedsModelAndData) {
  EXPECT_THAT(error_of([&] { require_training_keys(load("data: {train: t}")); }),
              HasSubstr("model.path is not set"));
  EXPECT_THAT(error_of([&] { require_training_keys(load("model: {path: t}")); }),
              HasSubstr("data.train is not set"));
  EXPECT_EQ(error_of([&] { require_training_keys(load("model: {path: t}\ndata: {train: t}")); }), "");
}

TEST_F(ConfigTest, MissingFile) {
  EXPECT_THAT(error_of([&] { load_config(folder.path() / "no.yaml"); }), HasSubstr("no.yaml"));
}

TEST(Sizes, ReadAndWritten) {
  EXPECT_EQ(parse_size("4GiB"), std::uint64_t{4} << 30);
  EXPECT_EQ(parse_size("512 MiB"), std::uint64_t{512} << 20);
  EXPECT_EQ(parse_size("1.5GB"), 1500000000U);
  EXPECT_EQ(parse_size("4096"), 4096U);
  for (const char* text : {"", "GiB", "4 gib", "4GiB!", "-4GiB", "nan", "inf", "0.3B", "1e40"}) {
    EXPECT_EQ(parse_size(text), std::nullopt) << text;
  }
  for (const std::uint64_t bytes :
       {std::uint64_t{0}, std::uint64_t{1000}, std::uint64_t{1} << 30, std::uint64_t{3} << 20}) {
    EXPECT_EQ(parse_size(size_text(bytes)), bytes);
  }
  EXPECT_EQ(size_text(std::uint64_t{4} << 30), "4GiB");
}

TEST(ShippedConfigs, Quickstart) {
  const Config c = load_config(kSource / "configs" / "quickstart.yaml");
  EXPECT_EQ(c.model.path, (kSource / "assets/tiny/model").lexically_normal());
  EXPECT_EQ(c.data.train, (kSource / "assets/tiny/train.jsonl").lexically_normal());
  EXPECT_EQ(c.model.dtype, DType::f32);
  EXPECT_EQ(c.train.steps, 50);
  EXPECT_EQ(c.rollout.images_per_step * c.rollout.group_size, 128);
  EXPECT_EQ(c.rollout.max_new_tokens, 96);
  EXPECT_EQ(c.rollout.stage2_max_new_tokens, 32);
  EXPECT_EQ(c.optimizer.lr, 2e-3);
  EXPECT_EQ(c.rewards.rouge, RougeKind::recall);
  EXPECT_EQ(c.prompts.texts.user, "Describe, reason and rate.");
  EXPECT_EQ(c.prompts.texts.stage2_user, "A picture is described so: {caption} Rate it.");
  EXPECT_EQ(c.prompts.texts.system, std::nullopt);
  require_training_keys(c);
}

TEST(ShippedConfigs, Koniq) {
  const Config c = load_config(kSource / "configs" / "koniq.yaml");
  EXPECT_EQ(c.rollout.images_per_step, 64);
  EXPECT_EQ(c.rollout.group_size, 4);
  EXPECT_EQ(c.lora.dropout, 0.1);
  EXPECT_EQ(c.train.epochs, 2);
  EXPECT_EQ(c.optimizer.lr, 1e-6);
  for (const char* tag :
       {"<caption>", "</caption>", "<reasoning>", "</reasoning>", "<rating>", "</rating>"}) {
    EXPECT_THAT(c.prompts.texts.user, HasSubstr(tag));
  }
  EXPECT_THAT(c.prompts.texts.stage2_user, HasSubstr("\n{caption}\n"));
  require_training_keys(c);
}

std::vector<fs::path> shipped_configs() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(kSource / "configs")) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Whatever data sets and models are there: the reader opens no other file than the bases.
TEST(ShippedConfigs, AllResolveAndNoTwoShareARunFolder) {
  std::map<fs::path, fs::path> files;
  for (const fs::path& file : shipped_configs()) {
    SCOPED_TRACE(file);
    const Config config = load_config(file);
    require_training_keys(config);
    const auto [other, fresh] = files.emplace(config.train.out, file);
    EXPECT_TRUE(fresh) << config.train.out << " is also the run folder of " << other->second;
    TemporaryFolder folder;
    EXPECT_EQ(to_yaml(load_config(folder.write("config.yaml", to_yaml(config)))), to_yaml(config));
    const bool tiny = file.filename() == "quickstart.yaml" ||
                      file.parent_path().string().find("miniature") != std::string::npos;
    EXPECT_EQ(config.model.path.parent_path() == (kSource / "assets/tiny").lexically_normal(), tiny);
  }
  EXPECT_GT(files.size(), 40U);
}

/// What the file changes of its base, but for the run folder.
std::vector<std::string> changes(const std::string& file, const std::string& base) {
  std::vector<std::string> changed = changed_settings(to_yaml(load_config(kSource / "configs" / base)),
                                                      load_config(kSource / "configs" / file));
  std::erase_if(changed, [](const std::string& setting) { return setting.starts_with("train.out:"); });
  return changed;
}

TEST(ShippedConfigs, ChangeOnlyWhatTheirNamesSay) {
  EXPECT_THAT(changes("koniq_warmup.yaml", "koniq.yaml"),
              ElementsAre("rollout.group_size: 8", "stage2.enabled: false", "rewards.consistency: 0",
                          "rewards.reasoning: 0", "rewards.prediction_shape: binary", "train.epochs: 10"));
  for (const auto& [name, base, start, baseline] :
       {std::array{"koniq_full.yaml", "koniq.yaml", "koniq_warmup.yaml", "runs/koniq_warmup"},
        std::array{"miniature/from_warmup.yaml", "quickstart.yaml", "miniature/warmup.yaml",
                   "runs/miniature/warmup"}}) {
    // The adapter of the baseline's run, if that was started in the folder of the project.
    EXPECT_EQ(load_config(kSource / "configs" / start).train.out, fs::absolute(baseline)) << start;
    EXPECT_THAT(changes(name, base),
                ElementsAre(fmt::format("model.adapter: \"{}\"", (kSource / baseline / "adapter").string())));
  }
  EXPECT_THAT(
      changes("koniq_3b.yaml", "koniq.yaml"),
      ElementsAre(testing::StartsWith("model.path: "), "model.device: cuda", "rollout.kv_memory: 1GiB",
                  "objective.micro_batch_tokens: 4096", "objective.recompute_layers: true"));
  EXPECT_THAT(changes("koniq_released.yaml", "koniq.yaml"),
              ElementsAre("prompts.profile: released", testing::StartsWith("prompts.user: "),
                          testing::StartsWith("prompts.stage2_user: ")));
  const std::vector<std::string> names{"prediction", "consistency", "reasoning", "format"};
  for (const auto& [folder, base] :
       std::map<std::string, std::string>{{"", "koniq.yaml"}, {"miniature/", "quickstart.yaml"}}) {
    for (const std::string& name : names) {
      std::vector<std::string> others;
      for (const std::string& other : names) {
        if (other != name) others.push_back(fmt::format("rewards.{}: 0", other));
      }
      EXPECT_EQ(changes(fmt::format("{}ablation/only_{}.yaml", folder, name), base), others);
      EXPECT_THAT(changes(fmt::format("{}ablation/without_{}.yaml", folder, name), base),
                  ElementsAre(fmt::format("rewards.{}: 0", name)));
    }
    for (const auto& [percent, fraction] :
         std::map<std::string, double>{{"000", 0}, {"025", .25}, {"050", .5}})
      EXPECT_THAT(changes(fmt::format("{}annotations/annotations_{}.yaml", folder, percent), base),
                  ElementsAre(fmt::format("data.annotation_fraction: {}", fraction)));
    EXPECT_THAT(changes(folder + "annotations/annotations_100.yaml", base), ElementsAre());
  }
}

TEST(ShippedConfigs, MiniatureComparisonsChangeOneThing) {
  const std::map<std::string, std::vector<std::string>> expected{
      {"full", {}},
      {"conflict/gdpo", {"objective.advantage: normalise_then_sum"}},
      {"conflict/credit_parts", {"objective.credit: parts"}},
      {"conflict/gdpo_credit_parts", {"objective.advantage: normalise_then_sum", "objective.credit: parts"}},
      {"conflict/reasoning_late", {"rewards.reasoning: {25: 0, 50: 1}"}},
      {"conflict/reasoning_early", {"rewards.reasoning: {25: 1, 50: 0}"}},
      {"meaning/precision", {"rewards.rouge: precision"}},
      {"meaning/polarity", {"rewards.reasoning_kind: polarity"}}};
  for (const auto& [name, settings] : expected)
    EXPECT_EQ(changes("miniature/" + name + ".yaml", "quickstart.yaml"), settings) << name;
  for (const std::string kind : {"semantic", "mix"})
    EXPECT_THAT(changes("miniature/meaning/" + kind + ".yaml", "quickstart.yaml"),
                ElementsAre("rewards.reasoning_kind: " + kind, HasSubstr("models/all-MiniLM-L6-v2")));
}

TEST(ShippedConfigs, ThePromptsOfReleasedAskForItsTags) {
  const PromptTexts texts = load_config(kSource / "configs" / "koniq_released.yaml").prompts.texts;
  for (const char* part :
       {"<caption>", "</caption>", "<think>", "</think>", "<answer>", "</answer>", "{\"rating\": "})
    EXPECT_THAT(texts.user, HasSubstr(part));
  EXPECT_THAT(texts.stage2_user,
              AllOf(HasSubstr("<answer>"), HasSubstr("\n{caption}\n"), HasSubstr("{\"rating\": ")));
}

TEST(ShippedConfigs, ParetoWeightsAddUpToTwo) {
  for (const char* folder : {"pareto", "miniature/pareto"}) {
    std::vector<double> weights;
    for (const auto& entry : fs::directory_iterator(kSource / "configs" / folder)) {
      const Config config = load_config(entry.path());
      const double reasoning = config.rewards.weights.at(reward_column("reasoning")).at(1);
      EXPECT_EQ(reasoning + config.rewards.weights.at(reward_column("prediction")).at(1), 2);
      EXPECT_EQ(entry.path().stem(), fmt::format("reasoning_{:.2f}", reasoning));
      weights.push_back(reasoning);
    }
    std::sort(weights.begin(), weights.end());
    EXPECT_THAT(weights, ElementsAre(0, .25, .5, 1, 1.5, 1.75, 2));
  }
}

// docs/configuration.md: a row per key, with its default.
TEST(ConfigurationPage, NamesEveryKeyAndItsDefault) {
  std::istringstream page(file_content(kSource / "docs" / "configuration.md"));
  const std::regex row(R"(\| `([a-z0-9_.]+)` \| (.*) \| ([^|]*) \| ([^|]*) \|)");
  std::map<std::string, std::string> documented;
  std::vector<std::string> order;
  for (std::string line; std::getline(page, line);) {
    std::smatch match;
    if (!std::regex_match(line, match, row)) continue;
    EXPECT_TRUE(documented.emplace(match[1], match[3]).second) << match[1];
    order.push_back(match[1]);
  }
  EXPECT_EQ(order, config_keys());

  const YamlNode defaults = parse_yaml(to_yaml(Config{}), "defaults");
  for (const auto& [key, text] : documented) {
    if (text.empty() || text.front() != '`' || key == "train.out") continue;
    const YamlNode written = parse_yaml(fmt::format("v: {}", text.substr(1, text.size() - 2)), "page");
    const std::size_t dot = key.find('.');
    const YamlNode* node = dot == std::string::npos
                               ? defaults.find(key)
                               : defaults.find(key.substr(0, dot))->find(key.substr(dot + 1));
    ASSERT_NE(node, nullptr) << key;
    EXPECT_EQ(written.find("v")->kind, node->kind) << key;
    EXPECT_EQ(written.find("v")->text, node->text) << key;
    EXPECT_EQ(written.find("v")->children.size(), node->children.size()) << key;
  }
}

}  // namespace
}  // namespace biqa
