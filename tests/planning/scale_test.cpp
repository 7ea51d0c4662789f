// SPDX-License-Identifier: Apache-2.0
#include "planning/scale.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "config/config.h"
#include "core/error.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using testing::HasSubstr;

constexpr double kRounding = 1e-12;

RolePlan split(int actors, int rewards, int learners) {
  return plan_roles({false, actors, rewards, learners, false}, actors + rewards + learners);
}
RolePlan colocated(int ranks) {
  RoleConfig config;
  config.colocated = true;
  return plan_roles(config, ranks);
}

/// Four images of two members with 10 tokens each; nothing but computation takes time.
ScaleInputs plain() {
  ScaleInputs in;
  in.images = 4;
  in.group_size = 2;
  in.length_mean_tokens = 10;
  in.prompt_tokens = 5;
  in.sleeps = false;
  in.steps = 3;
  return in;
}

double sent(const ScaleStep& step, Operation operation) {
  return step.sent_bytes.at(static_cast<std::size_t>(operation));
}

TEST(Scale, OneRankIsTheSumOfItsParts) {
  ScaleInputs in = plain();
  in.iteration_seconds = 0.1;
  in.token_seconds = 0.01;
  in.group_start_seconds = 0.5;
  in.stage2_tokens = 3;
  in.reward_group_seconds = 0.25;
  in.learn_start_seconds = 7;
  in.learn_group_seconds = 0.125;
  in.learn_token_seconds = 0.02;
  in.apply_seconds = 0.75;
  const ScaleStep step = simulate_step(in, colocated(1), 1);
  // Four starts, then 10 + 3 iterations of eight members.
  EXPECT_NEAR(step.rollout_seconds, 4 * 0.5 + 13 * (0.1 + 8 * 0.01), kRounding);
  EXPECT_NEAR(step.straggler_seconds, 0, kRounding);
  EXPECT_NEAR(step.reward_seconds, 4 * 0.25, kRounding);  // all end at once
  EXPECT_NEAR(step.learn_seconds, 7 + 4 * 0.125 + 4 * (5 + 2 * 10) * 0.02, kRounding);
  EXPECT_EQ(step.reduce_seconds, 0);
  EXPECT_NEAR(step.publish_seconds, 0.75, kRounding);
  EXPECT_NEAR(step.step_seconds,
              step.rollout_seconds + step.reward_seconds + step.learn_seconds + step.publish_seconds,
              kRounding);
  EXPECT_EQ(step.limit, "learning");
  EXPECT_NEAR(step.trajectories_per_second, 8 / step.step_seconds, kRounding);
}

TEST(Scale, SecondStageWaitsForItsPrompt) {
  ScaleInputs in = plain();
  in.images = in.group_size = 1;
  in.token_seconds = 1;
  in.stage2_tokens = 4;
  in.stage2_start_seconds = 0.5;
  EXPECT_NEAR(simulate_step(in, colocated(1), 1).rollout_seconds, 10 + 0.5 + 4, kRounding);
}

TEST(Scale, EvenWorkIsSharedEvenly) {
  ScaleInputs in = plain();
  in.token_seconds = 1;
  in.learn_token_seconds = 1;
  const ScaleStep step = simulate_step(in, split(2, 1, 4), 7);
  EXPECT_NEAR(step.rollout_seconds, 2 * 2 * 10, kRounding);
  EXPECT_NEAR(step.straggler_seconds, 0, kRounding);
  EXPECT_NEAR(step.learn_seconds, 25, kRounding);
  EXPECT_NEAR(step.imbalance_seconds, 0, kRounding);
}

TEST(Scale, MoreRanksThanGroupsIdle) {
  ScaleInputs in = plain();
  in.token_seconds = 1;
  in.learn_token_seconds = 1;
  const ScaleStep step = simulate_step(in, split(8, 1, 16), 25);
  EXPECT_NEAR(step.rollout_seconds, 20, kRounding);
  EXPECT_NEAR(step.straggler_seconds, 10, kRounding);  // half of the actors have nothing
  EXPECT_NEAR(step.learn_seconds, 25, kRounding);
  EXPECT_NEAR(step.imbalance_seconds, 25 - 25.0 * 4 / 16, kRounding);
}

TEST(Scale, LagOverlapsBothSides) {
  ScaleInputs in = plain();
  in.images = 2;
  in.token_seconds = 1;          // 40 s of rollout
  in.learn_token_seconds = 0.5;  // 25 s of learning
  in.steps = 20;
  EXPECT_NEAR(simulate_step(in, split(1, 0, 1), 2).step_seconds, 40 + 25, kRounding);
  in.policy_lag = 1;
  ScaleStep step = simulate_step(in, split(1, 0, 1), 2);
  EXPECT_NEAR(step.step_seconds, 40, kRounding);
  EXPECT_EQ(step.limit, "rollout");
  in.learn_token_seconds = 2;  // 100 s
  step = simulate_step(in, split(1, 0, 1), 2);
  EXPECT_NEAR(step.step_seconds, 100, kRounding);
  EXPECT_EQ(step.limit, "learning");
  // Who also learns has nothing to run ahead of.
  EXPECT_NEAR(simulate_step(in, colocated(1), 1).step_seconds, 140, kRounding);
}

TEST(Scale, CollectivesTakeWhatTheirAlgorithmsSend) {
  ScaleInputs in = plain();
  in.adapter_bytes = 8 * 4096;  // 1,024 values for each of 8 learners: one round
  in.link_bytes_per_second = 1e6;
  in.latency_seconds = 1e-3;
  in.message_seconds = 1e-4;
  const ScaleStep step = simulate_step(in, split(7, 1, 8), 16);
  const double wire = 7 * 4096 / 1e6, messages = 14 * 1e-4;
  EXPECT_NEAR(step.reduce_seconds, 2 * (wire + messages + 1e-3) + 4 * (messages + 2e-3), kRounding);
  // Fifteen holders: a tree of four hops.
  EXPECT_NEAR(step.broadcast_seconds, 4 * (8 * 4096 / 1e6 + 1e-3 + 1e-4), kRounding);
  EXPECT_NEAR(step.publish_seconds,
              16 * 1e-4 + 4 * (1e-3 + 1e-4) + step.broadcast_seconds + 4 * (2 * 14 * 1e-4 + 2e-3), kRounding);
  EXPECT_EQ(sent(step, Operation::reduce_scatter), 8 * 7 * 4096);
  EXPECT_EQ(sent(step, Operation::all_gather), 8 * 7 * 4096);
  EXPECT_EQ(sent(step, Operation::broadcast), 14 * 8 * 4096 + 15 * 32);
}

TEST(Scale, LargeAdaptersGoAlongAChain) {
  ScaleInputs in = plain();
  in.adapter_bytes = 3.0 * (4 << 20);
  in.link_bytes_per_second = 4 << 20;  // a block a second
  const ScaleStep step = simulate_step(in, split(5, 0, 1), 6);
  EXPECT_NEAR(step.broadcast_seconds, 5 + 2, kRounding);
  EXPECT_EQ(step.limit, "publish");
}

TEST(Scale, ManyRanksGetALargeAdapterThroughABinaryTree) {
  ScaleInputs in = plain();
  in.adapter_bytes = 3.0 * (4 << 20);
  in.link_bytes_per_second = 4 << 20;
  // Six depths below the root, then two more blocks; each rank sends everything twice. A chain would take 63 + 2.
  EXPECT_NEAR(simulate_step(in, split(63, 0, 1), 64).broadcast_seconds, 2 * (6 + 2), kRounding);
  EXPECT_NEAR(simulate_step(in, split(62, 0, 1), 63).broadcast_seconds, 2 * (5 + 2), kRounding);
}

TEST(Scale, SleepsAddToEveryHopOfAChain) {
  ScaleInputs in = plain();
  in.adapter_bytes = 2000.0 * (4 << 20);  // so many blocks that a tree's double work would take longer
  in.link_bytes_per_second = 4e9;
  const double awake = simulate_step(in, split(1023, 0, 1), 1024).broadcast_seconds;
  in.sleeps = true;
  const double asleep = simulate_step(in, split(1023, 0, 1), 1024).broadcast_seconds;
  EXPECT_GT(asleep, awake + 1);
  EXPECT_LT(asleep, awake + 1023 * 2.5e-3 + kRounding);  // half of the longest sleep
}

TEST(Scale, OneRewardRankIsAQueue) {
  ScaleInputs in = plain();
  in.reward_group_seconds = 1;
  in.group_bytes = 1000;
  in.link_bytes_per_second = 1000;
  const ScaleStep step = simulate_step(in, split(2, 1, 3), 6);
  EXPECT_NEAR(step.reward_seconds, 4 * (1 + 3 * 1), kRounding);  // each group to three learners
  EXPECT_EQ(step.limit, "rewards");
  EXPECT_NEAR(sent(step, Operation::message), 4 * (1000 * 4 + 56) + 6 * 112, kRounding);
}

TEST(Scale, RanksShareCores) {
  ScaleInputs in = plain();
  in.token_seconds = 1;
  in.learn_token_seconds = 1;
  in.cores = 2;
  const ScaleStep step = simulate_step(in, split(4, 0, 4), 8);
  EXPECT_NEAR(step.rollout_seconds, 4 * 20 / 2.0, kRounding);
  EXPECT_NEAR(step.learn_seconds, 4 * 25 / 2.0, kRounding);
  // One rank has a core to itself.
  EXPECT_NEAR(simulate_step(in, colocated(1), 1).rollout_seconds, 80, kRounding);
  // The others' looks for messages are taken from the two cores.
  in.idle_core_share = 0.25;
  EXPECT_NEAR(simulate_step(in, split(4, 0, 4), 8).rollout_seconds, 4 * 20 / 1.0, kRounding);
}

TEST(Scale, SlowDisksDelayCheckpointsNotSteps) {
  ScaleInputs in = plain();
  in.token_seconds = 0.1;
  in.adapter_bytes = 1000;
  in.checkpoint_every = 2;
  const double step_seconds = simulate_step(in, split(1, 0, 2), 3).step_seconds;
  in.disk_bytes_per_second = 10;
  const ScaleStep slow = simulate_step(in, split(1, 0, 2), 3);
  EXPECT_EQ(slow.step_seconds, step_seconds);
  EXPECT_NEAR(slow.checkpoint_seconds, 4 * 1000 / 10.0, kRounding);
  EXPECT_EQ(slow.checkpoint_steps, std::ceil(slow.checkpoint_seconds / slow.step_seconds));
}

TEST(Scale, MoreWorkOrSlowerPartsNeverTakeLess) {
  ScaleInputs base;
  base.images = 24;
  base.group_size = 4;
  base.prompt_tokens = 50;
  base.length_mean_tokens = 60;
  base.length_deviation = 0.5;
  base.adapter_bytes = 1e6;
  base.group_bytes = 1e4;
  base.iteration_seconds = 1e-3;
  base.token_seconds = 1e-4;
  base.reward_group_seconds = 1e-3;
  base.learn_token_seconds = 1e-4;
  base.link_bytes_per_second = 1e9;
  base.latency_seconds = 1e-5;
  base.message_seconds = 1e-6;
  const RolePlan roles = split(9, 2, 5);
  const double seconds = simulate_step(base, roles, 16).step_seconds;
  for (const char* name :
       {"group_start_seconds", "stage2_start_seconds", "iteration_seconds", "token_seconds",
        "reward_group_seconds", "learn_start_seconds", "learn_group_seconds", "learn_token_seconds",
        "apply_seconds", "latency_seconds", "message_seconds"}) {
    ScaleInputs slower = base;
    set_scale_input(slower, name, "0.5", "test");
    slower.stage2_tokens = 5;
    EXPECT_GT(simulate_step(slower, roles, 16).step_seconds, seconds) << name;
  }
  for (const char* name : {"images", "prompt_tokens", "length_mean_tokens", "adapter_bytes", "group_bytes"}) {
    ScaleInputs more = base;
    set_scale_input(more, name, "1e7", "test");
    if (more.images > 1000) more.images = 100;
    if (more.length_mean_tokens > 1000) more.length_mean_tokens = 100;
    EXPECT_GT(simulate_step(more, roles, 16).step_seconds, seconds) << name;
  }
  for (const char* name : {"link_bytes_per_second", "sum_bytes_per_second", "cores"}) {
    ScaleInputs scarce = base;
    set_scale_input(scarce, name, "2", "test");
    EXPECT_GT(simulate_step(scarce, roles, 16).step_seconds, seconds) << name;
  }
}

TEST(Scale, ComputationNeverTakesLongerOnMoreRanks) {
  ScaleInputs in = plain();
  in.images = 64;
  in.token_seconds = 1e-3;
  in.learn_token_seconds = 1e-3;
  double before = std::numeric_limits<double>::infinity();
  for (int ranks = 1; ranks <= 4096; ranks *= 4) {
    const double seconds = simulate_step(in, colocated(ranks), ranks).step_seconds;
    EXPECT_LE(seconds, before + kRounding) << ranks;
    before = seconds;
  }
  EXPECT_NEAR(before, 20e-3 + 25e-3, kRounding);  // one group each
}

TEST(Scale, SameSeedSameFigures) {
  ScaleInputs in = plain();
  in.length_deviation = 0.6;
  in.token_seconds = 1e-3;
  const RolePlan roles = split(3, 1, 2);
  const double seconds = simulate_step(in, roles, 6).step_seconds;
  EXPECT_EQ(simulate_step(in, roles, 6).step_seconds, seconds);
  in.seed = 1;
  EXPECT_NE(simulate_step(in, roles, 6).step_seconds, seconds);
}

TEST(Scale, DrawnLengthsKeepTheirMean) {
  ScaleInputs in = plain();
  in.images = 2000;
  in.group_size = 8;
  in.length_mean_tokens = 400;
  in.token_seconds = 1;
  in.steps = 1;
  const double expected = 2000 * 8 * 400;
  in.length_deviation = 0.5;
  // Ten standard errors of a mean of 16,000.
  const double tolerance = 10 * std::sqrt(std::exp(0.25) - 1) / std::sqrt(16000.0) * expected;
  EXPECT_NEAR(simulate_step(in, colocated(1), 1).rollout_seconds, expected, tolerance);
  in.relative_lengths = {0.5, 1.5};
  EXPECT_NEAR(simulate_step(in, colocated(1), 1).rollout_seconds, expected, tolerance);
  in.max_new_tokens = 200;
  EXPECT_NEAR(simulate_step(in, colocated(1), 1).rollout_seconds, expected / 2, kRounding * expected);
}

TEST(Scale, CalibrationFindsTheCostsThatMadeTheRuns) {
  ScaleInputs in = plain();
  in.iteration_seconds = 0.02;
  in.token_seconds = 0.003;
  in.stage2_tokens = 4;
  in.learn_start_seconds = 0.5;
  in.learn_token_seconds = 0.01;
  in.reward_group_seconds = 0.125;
  in.apply_seconds = 0.25;
  std::vector<MeasuredRun> runs;
  for (const std::int64_t images : {4, 1}) {
    in.images = images;
    const ScaleStep step = simulate_step(in, colocated(1), 1);
    runs.push_back({images, step.rollout_seconds, step.reward_seconds, step.learn_seconds,
                    step.publish_seconds, in.length_mean_tokens, in.stage2_tokens});
  }
  ScaleInputs found = plain();
  found.stage2_tokens = in.stage2_tokens;
  calibrate(found, runs);
  constexpr double kSolved = 1e-9;
  EXPECT_NEAR(found.iteration_seconds, in.iteration_seconds, kSolved);
  EXPECT_NEAR(found.token_seconds, in.token_seconds, kSolved);
  EXPECT_NEAR(found.learn_start_seconds, in.learn_start_seconds, kSolved);
  EXPECT_NEAR(found.learn_token_seconds, in.learn_token_seconds, kSolved);
  EXPECT_NEAR(found.reward_group_seconds, in.reward_group_seconds, kSolved);
  EXPECT_NEAR(found.apply_seconds, in.apply_seconds, kSolved);
  // From one run everything is a cost of tokens.
  calibrate(found, std::span(runs).first(1));
  EXPECT_EQ(found.iteration_seconds, 0);
  EXPECT_NEAR(found.token_seconds, runs[0].rollout_seconds / (8 * 14), kSolved);
}

TEST(Scale, ARunOnSeveralRanksIsNoMeasureOfItsParts) {
  const TemporaryFolder folder;
  folder.write("metrics.jsonl", "{\"step\":1,\"images\":4,\"trajectories\":8}\n");
  std::filesystem::create_directory(folder.path() / "logs");
  folder.write("logs/rank-00000.log", "");
  folder.write("logs/rank-00001.log", "");
  const std::vector<std::filesystem::path> runs{folder.path()};
  RoleConfig roles;
  try {
    read_scale_runs(runs, ScaleInputs{}, roles);
    ADD_FAILURE() << "it is taken for one rank's";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("it ran on several ranks"));
  }
}

TEST(Scale, SaysThatRefillsAreNotSimulated) {
  const TemporaryFolder folder;
  folder.write("metrics.jsonl", "{\"step\":1,\"images\":9,\"trajectories\":18,\"length_mean\":5}\n");
  const std::vector<std::filesystem::path> runs{folder.path()};
  const auto said = [&](const std::string& rounds) {
    const Config config =
        load_config(BIQA_SOURCE_DIR "/configs/quickstart.yaml",
                    std::vector<std::string>{"objective.loss=dapo", "rollout.images_per_step=4",
                                             "rollout.refill_rounds=" + rounds, "model.threads=1"});
    folder.write("config.yaml", to_yaml(config));
    RoleConfig roles;
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(read_scale_runs(runs, plain(), roles).images, 9);
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_THAT(said("2"), HasSubstr("up to 12 images in several rounds; the simulation has 9 in one round"));
  EXPECT_THAT(said("0"), ::testing::Not(HasSubstr("refills")));
}

TEST(Scale, BestRolesAreNoSlowerThanTheUsualOnes) {
  ScaleInputs in = plain();
  in.images = 32;
  in.length_deviation = 0.4;
  in.token_seconds = 1e-3;
  in.learn_token_seconds = 3e-3;
  for (const int ranks : {1, 2, 3, 8, 40}) {
    const RolePlan best = find_best_roles(in, ranks);
    const double seconds = simulate_step(in, best, ranks).step_seconds;
    EXPECT_LE(seconds, simulate_step(in, plan_roles({}, ranks), ranks).step_seconds) << ranks;
    EXPECT_LE(seconds, simulate_step(in, colocated(ranks), ranks).step_seconds) << ranks;
  }
}

TEST(Scale, InputsAreReadByNameAndRefusedByName) {
  const TemporaryFolder folder;
  const auto file = folder.write("machine.yaml", "images: 0x40\ntoken_seconds: 3.2e-5\nsleeps: FALSE\n");
  ScaleInputs in;
  read_scale_inputs(in, file);
  EXPECT_EQ(in.images, 64);
  EXPECT_EQ(in.token_seconds, 3.2e-5);
  EXPECT_FALSE(in.sleeps);
  ScaleInputs read;
  read_scale_inputs(read, folder.write("again.yaml", to_yaml(in)));
  EXPECT_EQ(to_yaml(read), to_yaml(in));
  for (const auto& [text, part] : std::vector<std::pair<std::string, std::string>>{
           {"tokens_seconds: 1\n", "unknown input 'tokens_seconds'"},
           {"images: 1\ntoken_seconds: -1\n", "machine.yaml:2"},
           {"images: 2.5\n", "a whole number"},
           {"images: 0\n", "a whole number"},
           {"token_seconds: fast\n", "a number of at least 0"},
           {"token_seconds: 0x1p3\n", "a number of at least 0"},
           {"token_seconds: .nan\n", "a number of at least 0"},
           {"sleeps: no\n", "true or false"},
           {"images: [1, 2]\n", "a single value"},
           {"- 1\n", "must be a map"}}) {
    folder.write("machine.yaml", text);
    try {
      read_scale_inputs(in, file);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  }
}

}  // namespace
}  // namespace biqa
