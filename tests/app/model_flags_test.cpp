// SPDX-License-Identifier: Apache-2.0
// What the flags that biqa_score and biqa_eval share make of a configuration.
#include "app/model_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

const ProgramInfo kInfo{"biqa_some", "", "", "", with_model_flags({}, {})};

class ModelFlags : public ::testing::Test {
 protected:
  /// The options of a configuration of `text`, with further arguments.
  RolloutOptions options(const std::string& text, std::vector<std::string> arguments = {}) const {
    arguments.insert(arguments.end(), {"--config", folder_.write("own.yaml", text).string()});
    const CommandLine line(kInfo, arguments);
    return rollout_options(line, find_config(line));
  }
  TemporaryFolder folder_;
};

TEST_F(ModelFlags, SecondStageAsConfigured) {
  EXPECT_TRUE(options("stage2: {leak_guard: strip}\n").strip_ratings);
  EXPECT_FALSE(options("stage2: {leak_guard: off}\n").strip_ratings);
  EXPECT_FALSE(options("stage2: {leak_guard: penalise}\n").strip_ratings);
  EXPECT_FALSE(options("stage2: {input: caption}\n").stage2_with_reasoning);
  EXPECT_TRUE(options("stage2: {input: caption+reasoning}\n").stage2_with_reasoning);
  // Without a configuration as with its defaults.
  const RolloutOptions none = rollout_options(CommandLine(kInfo, {}), std::nullopt), empty = options("{}\n");
  EXPECT_TRUE(none.strip_ratings);
  EXPECT_EQ(none.strip_ratings, empty.strip_ratings);
  EXPECT_EQ(none.stage2_with_reasoning, empty.stage2_with_reasoning);
}

TEST_F(ModelFlags, PromptsAndLimits) {
  const std::string own =
      "prompts: {system: S, user: U, stage2_system: T, stage2_user: 'V {caption}'}\n"
      "rollout: {max_new_tokens: 7, stage2_max_new_tokens: 5}\n";
  const RolloutOptions configured = options(own);
  EXPECT_EQ(configured.prompts.system, "S");
  EXPECT_EQ(configured.prompts.user, "U");
  EXPECT_EQ(configured.prompts.stage2_system, "T");
  EXPECT_EQ(configured.prompts.stage2_user, "V {caption}");
  EXPECT_EQ(configured.sampling.max_new_tokens, 7);
  EXPECT_EQ(configured.stage2_max_new_tokens, 5);
  EXPECT_TRUE(configured.sampling.greedy);
  const RolloutOptions flags = options(own, {"--prompts", "paper", "--max-new-tokens", "9", "--seed", "3"});
  EXPECT_EQ(flags.prompts.user, default_prompts(named_profile("paper")).user);
  EXPECT_EQ(flags.sampling.max_new_tokens, 9);
  EXPECT_FALSE(flags.sampling.greedy);
  EXPECT_EQ(flags.seed, 3U);
  EXPECT_EQ(options(own, {"--max-new-tokens", "0"}).sampling.max_new_tokens, 7);
}

TEST_F(ModelFlags, SetReplacesValues) {
  const std::string own = "rollout: {max_new_tokens: 7, stage2_max_new_tokens: 5}\n";
  const RolloutOptions set =
      options(own, {"--set", "rollout.max_new_tokens=8", "--set", "stage2.leak_guard=off"});
  EXPECT_EQ(set.sampling.max_new_tokens, 8);
  EXPECT_EQ(set.stage2_max_new_tokens, 5);
  EXPECT_FALSE(set.strip_ratings);
  EXPECT_THROW(options(own, {"--set", "rollout.tokens=8"}), Error);
  // The configuration of the run in --adapter.
  const std::string adapter = folder_.write("run/checkpoints/step-000001/adapter.h5", "").string();
  folder_.write("run/config.yaml", own);
  const CommandLine run(kInfo, {"--adapter", adapter, "--set", "rollout.stage2_max_new_tokens=6"});
  EXPECT_EQ(rollout_options(run, find_config(run)).stage2_max_new_tokens, 6);
  // An exported folder inside the run has its own; it may lack the model.
  const std::string exported = folder_.write("run/exported/config.yaml", "rollout: {max_new_tokens: 3}\n");
  const CommandLine moved(kInfo, {"--adapter", fs::path(exported).parent_path().string()});
  EXPECT_EQ(rollout_options(moved, find_config(moved)).sampling.max_new_tokens, 3);
  EXPECT_THROW(policy_options(moved, find_config(moved), 1), Error);
  const std::vector<std::string> lonely{"--set", "rollout.max_new_tokens=8", "--model", "m"};
  EXPECT_THROW(find_config(CommandLine(kInfo, lonely)), Error);
}

}  // namespace
}  // namespace biqa
