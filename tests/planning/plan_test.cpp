// SPDX-License-Identifier: Apache-2.0
// The plan of a run: what can be counted by hand is counted by hand.
#include "planning/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "io/safetensors.h"
#include "run/progress.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using ::testing::HasSubstr;

std::int64_t bytes_of(const MemoryParts& parts, const std::string& name) {
  const auto part = std::find_if(parts.begin(), parts.end(), [&](const auto& p) { return p.first == name; });
  return part == parts.end() ? -1 : part->second;
}

/// A network whose sizes are easy to multiply.
MemoryInputs small_inputs() {
  MemoryInputs in;
  TextConfig& text = in.model.text;
  text.hidden = 16;
  text.layers = 2;
  text.heads = 4;
  text.kv_heads = 2;
  text.head_dim = 4;
  text.intermediate = 32;
  text.vocab = 100;
  in.model.vision.hidden = 8;
  in.model.vision.depth = 1;
  in.model.vision.heads = 2;
  in.model.vision.intermediate = 8;
  in.model.vision.out_hidden = 16;
  in.lora.rank = 2;
  in.kv_limit = std::int64_t{1} << 30;
  in.prompt = 20;
  in.image_tokens = 4;
  in.patch_rows = 16;
  in.images = 2;
  in.group = 2;
  in.new_tokens = 8;
  in.distinct_images = 5;
  in.learner_images = 2;
  in.micro_batch_tokens = 64;
  return in;
}

TEST(PlanMemory, WeightsAdapterAndFeaturesAreThoseOfTheShapes) {
  const MemoryInputs in = small_inputs();
  const MemoryPlan plan = plan_memory(in);
  // One layer: q and o 16·16, k and v 16·8, gate, up and down 16·32.
  const std::int64_t layer = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32, table = 100 * 16;
  const std::int64_t vision = 3 * 2 * 14 * 14 * 8 + (4 * 8 * 8 + 3 * 8 * 8) + 32 * 32 + 32 * 16;
  EXPECT_EQ(bytes_of(plan.shared, "weights for the forward pass"), 4 * (2 * layer + vision + table));
  // The gradient of the first layer's inputs is not needed behind q, k and v.
  EXPECT_EQ(bytes_of(plan.shared, "weights for the backward pass"),
            4 * (2 * layer - (16 * 16 + 2 * 16 * 8) + table));
  EXPECT_EQ(bytes_of(plan.shared, "embedding"), 4 * table);
  EXPECT_EQ(bytes_of(plan.held, "image features"), 5 * 4 * 16 * 4);
  // In each of the two layers: seven projections.
  const std::int64_t inputs = 2 * (6 * 16 + 32), outputs = 2 * (3 * 16 + 2 * 8 + 2 * 32);
  const std::int64_t adapter = 4 * 2 * (inputs + outputs);
  ASSERT_EQ(adapter, 4 * static_cast<std::int64_t>(LoraLayout(in.model, in.lora).size()));
  // Actor and learner have A of rank 2 and twice with the rank padded to 16; B of rank 2 and once with it padded.
  const std::int64_t packed = 4 * (inputs * (2 + 2 * 16) + outputs * (2 + 16));
  EXPECT_EQ(bytes_of(plan.held, "adapter, gradient, moments"), 8 * adapter + 2 * packed);
  EXPECT_EQ(plan.shared_bytes(), bytes_of(plan.shared, "weights for the forward pass") +
                                     bytes_of(plan.shared, "weights for the backward pass") + 4 * table);
}

TEST(PlanMemory, EveryThreadHasItsOwnWorkingMemory) {
  MemoryInputs in = small_inputs();
  const auto working = [&] { return bytes_of(plan_memory(in).held, "working memory of the threads"); };
  const std::int64_t one = working();
  EXPECT_GT(one, 0);
  in.threads = 5;
  EXPECT_EQ(working(), 5 * one);
  in.new_tokens = 800;
  EXPECT_GT(working(), 5 * one) << "the backward pass has a row for every key";
}

TEST(PlanMemory, FeaturesTakeNoMemoryOfAGpu) {
  MemoryInputs in = small_inputs();
  in.device = "cuda";
  const MemoryPlan plan = plan_memory(in);
  EXPECT_EQ(bytes_of(plan.on_host, "image features"), 5 * 4 * 16 * 4);
  in.distinct_images = 1000;
  EXPECT_GT(bytes_of(plan_memory(in).on_host, "image features"), 5 * 4 * 16 * 4);
  EXPECT_EQ(plan_memory(in).peak(), plan.peak());
}

TEST(PlanMemory, TheCacheHoldsTheLargerStage) {
  MemoryInputs in = small_inputs();
  // A page has 16 tokens; per layer and kv head 4·16 for keys and 16·16 for values, whose width is padded to 16.
  const std::int64_t page = 4 * 2 * 2 * (4 * 16 + 16 * 16);
  const auto cache = [&] { return bytes_of(plan_memory(in).held, "KV cache"); };
  // A prompt of 20 tokens fills 2 pages; each of 2 members needs a copy of the second, which holds its 8 tokens too.
  EXPECT_EQ(cache(), 2 * (2 + 2 * 1) * page);
  in.stage2_prompt = 40;
  in.stage2_new = 30;
  // All 4 members at once: 3 pages of the prompt and 3 from its last page on.
  EXPECT_EQ(cache(), 4 * (3 + 3) * page);
  in.kv_limit = 10 * page + 1;
  EXPECT_EQ(cache(), 10 * page);
}

TEST(PlanMemory, ARankPaysForItsRolesAlone) {
  MemoryInputs in = small_inputs();
  const MemoryPlan both = plan_memory(in);
  in.learner = false;
  const MemoryPlan actor = plan_memory(in);
  EXPECT_EQ(bytes_of(actor.shared, "weights for the backward pass"), 0);
  EXPECT_EQ(bytes_of(actor.passing, "learning (tape of a micro-batch)"), -1);
  EXPECT_LT(actor.peak(), both.peak());
  in = small_inputs();
  in.actor = false;
  const MemoryPlan learner = plan_memory(in);
  EXPECT_EQ(bytes_of(learner.held, "KV cache"), 0);
  EXPECT_EQ(bytes_of(learner.passing, "rollout"), -1);
  EXPECT_LT(learner.peak(), both.peak());
}

TEST(PlanMemory, ThePeakIsWhatIsHeldAndTheLargestOfWhatPasses) {
  const MemoryPlan plan{{{"a", 5}}, {{"b", 7}, {"c", 1}}, {{"d", 3}, {"e", 11}}};
  EXPECT_EQ(plan.shared_bytes(), 5);
  EXPECT_EQ(plan.peak(), 5 + 8 + 11);
  EXPECT_EQ(MemoryPlan{}.peak(), 0);
}

TEST(PlanMemory, RecomputingLayersAndALimitOfTheCacheSaveMemory) {
  MemoryInputs in = small_inputs();
  const MemoryPlan plain = plan_memory(in);
  in.recompute = true;
  EXPECT_LT(bytes_of(plan_memory(in).passing, "learning (tape of a micro-batch)"),
            bytes_of(plain.passing, "learning (tape of a micro-batch)"));
  in = small_inputs();
  in.kv_limit = bytes_of(plain.held, "KV cache") / 2;
  const std::int64_t limited = bytes_of(plan_memory(in).held, "KV cache");
  EXPECT_GT(limited, 0);
  EXPECT_LE(limited, in.kv_limit);
}

class PlanTest : public ::testing::Test {
 protected:
  static Config config(std::vector<std::string> more = {}) {
    std::vector<std::string> overrides{"rollout.images_per_step=4",
                                       "rollout.group_size=3",
                                       "rollout.max_new_tokens=10",
                                       "rollout.stage2_max_new_tokens=5",
                                       "train.steps=0",
                                       "train.epochs=2",
                                       "train.eval_images=7",
                                       "model.threads=1"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    return load_config(BIQA_SOURCE_DIR "/configs/quickstart.yaml", overrides);
  }
  TemporaryFolder folder_;
};

// A piece of a group has the prompt and as many completions of 9 tokens as fit, but at least one.
TEST_F(PlanTest, ADividedGroupComputesItsPromptForEveryPiece) {
  const std::int64_t prompt = count_plan(config(), 1).prompt_tokens;
  const auto rows_with = [&](std::int64_t micro_batch) {
    return count_plan(config({fmt::format("objective.micro_batch_tokens={}", micro_batch)}), 1).trained_rows;
  };
  EXPECT_EQ(rows_with(prompt + 3 * 9), 4 * prompt + 12 * 9) << "whole groups";
  EXPECT_EQ(rows_with(prompt + 2 * 9), 4 * 2 * prompt + 12 * 9) << "pieces of two and one";
  EXPECT_EQ(rows_with(1), 4 * 3 * prompt + 12 * 9);

  const auto learn_with = [&](std::int64_t micro_batch) {
    const Config divided = config({fmt::format("objective.micro_batch_tokens={}", micro_batch)});
    return count_plan(divided, 1).operations.learn;
  };
  const DecoderFlop flop(ModelConfig::load(config().model.path));
  const bool reference = config().objective.loss.beta != 0;
  const double pass = flop.learn(prompt_rows(static_cast<double>(prompt)), {reference, false});
  EXPECT_NEAR(learn_with(1) - learn_with(8192), 4 * 2 * pass, 1e-6 * pass);
}

TEST_F(PlanTest, CountsAStepOfTheQuickstart) {
  const RunPlan plan = make_plan(config(), 1);
  EXPECT_EQ(plan.images, 4);
  EXPECT_EQ(plan.trajectories, 12);
  EXPECT_EQ(plan.steps, 2 * (plan.training_images / 4));
  EXPECT_EQ(plan.evaluation_images, 7);
  EXPECT_EQ(plan.image_tokens, 16);  // 112 x 112
  EXPECT_GT(plan.prompt_tokens, plan.image_tokens);
  EXPECT_EQ(plan.rollout_tokens, 12 * (10 + 5));
  EXPECT_EQ(plan.trained_rows, 4 * plan.prompt_tokens + 12 * 9);
  EXPECT_TRUE(plan.assumptions.empty());
  EXPECT_EQ(plan.fullest, "actor+reward+learner");
  EXPECT_EQ(plan.node_ranks, 1);
  EXPECT_EQ(plan.node_bytes, plan.memory.peak());
  EXPECT_GT(plan.rollout_seconds, 0);
  EXPECT_GT(plan.learn_seconds, 0);
  const std::string text = describe_plan(plan);
  EXPECT_THAT(text, HasSubstr("4 images and 12 trajectories"));
  EXPECT_THAT(text, HasSubstr("rates of a rank"));
  EXPECT_THAT(text, HasSubstr("KV cache"));
  EXPECT_THAT(text, HasSubstr("prediction 1, consistency 1, reasoning 1, format 1\n"));
}

TEST_F(PlanTest, CountsWithoutMeasuring) {
  const RunPlan plan = count_plan(config(), 1);
  EXPECT_GT(plan.operations.all(), 0);
  EXPECT_EQ(plan.cpu_rates.all(), 0);
  EXPECT_EQ(plan.step_seconds(), 0);
}

TEST_F(PlanTest, TheCacheDividesAStepIntoWaves) {
  EXPECT_EQ(count_plan(config(), 1).waves, 1);
  const RunPlan small = count_plan(
      config({"rollout.images_per_step=12", "rollout.group_size=12", "rollout.kv_memory=1MiB"}), 1);
  EXPECT_GT(small.waves, 1);
  EXPECT_LE(small.waves, 12);
}

TEST_F(PlanTest, SaysHowManyImagesMayBeDrawnInPlaceOfOthers) {
  RunPlan plan = count_plan(config({"objective.loss=dapo", "rollout.refill_rounds=2"}), 1);
  EXPECT_EQ(plan.further_images, 8);
  EXPECT_EQ(plan.refill_rounds, 2);
  plan.steps = 10;
  plan.rollout_seconds = 20;
  plan.learn_seconds = 30;
  EXPECT_EQ(plan.longest_step_seconds(), 3 * 20 + 3 * 30);
  const std::string text = describe_plan(plan);
  EXPECT_THAT(text, HasSubstr("a step rolls out 4 images, and up to 8 further images in up to 2 rounds"));
  EXPECT_THAT(text, HasSubstr("learning 30.00 s, at most " + duration_text(150) + " with refills\n"));
  EXPECT_THAT(text, HasSubstr("without evaluations, at most " + duration_text(1500) + " with refills\n"));
  EXPECT_EQ(describe_plan(count_plan(config(), 1)).find("refills"), std::string::npos);
  // No more images than there are.
  plan = count_plan(config({"objective.loss=dapo", "rollout.refill_rounds=1000"}), 1);
  EXPECT_EQ(plan.further_images, plan.training_images - 4);
  EXPECT_EQ(plan.refill_rounds, plan.further_images);
}

TEST_F(PlanTest, CountsTheSentenceEncoderOfRewardRanks) {
  const std::string encoder = BIQA_SOURCE_DIR "/tests/fixtures/sentence";
  std::int64_t bytes = 0;
  const Safetensors weights = Safetensors::open(encoder + "/model.safetensors");
  for (const StoredTensor& tensor : weights.tensors())
    bytes += static_cast<std::int64_t>(sizeof(float)) * tensor.elements();
  ASSERT_GT(bytes, 0);
  const auto planned = [&](const std::string& kind, std::vector<std::string> more = {}) {
    more.insert(more.end(), {"rewards.reasoning_kind=" + kind, "rewards.similarity_model=" + encoder});
    return count_plan(config(more), 1);
  };
  for (const char* kind : {"semantic", "mix"}) {
    const RunPlan plan = planned(kind);
    EXPECT_EQ(bytes_of(plan.memory.held, "sentence encoder"), bytes) << kind;
    EXPECT_THAT(describe_plan(plan), HasSubstr("sentence encoder"));
  }
  for (const char* kind : {"rouge", "polarity"})
    EXPECT_EQ(bytes_of(planned(kind).memory.held, "sentence encoder"), -1) << kind;

  const RunPlan ranks =
      count_plan(config({"rewards.reasoning_kind=mix", "rewards.similarity_model=" + encoder,
                         "roles={actors: 2, rewards: 1, learners: 1}"}),
                 4);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(bytes_of(ranks.rank_memory[static_cast<std::size_t>(rank)].held, "sentence encoder"),
              ranks.roles.is_reward(rank) ? bytes : -1)
        << rank;
  }
  const RunPlan unknown = count_plan(
      config({"rewards.reasoning_kind=mix", "rewards.similarity_model=" + folder_.path().string()}), 1);
  ASSERT_EQ(unknown.assumptions.size(), 1U);
  EXPECT_THAT(unknown.assumptions[0], HasSubstr("the memory of the sentence encoder is not counted"));
}

TEST_F(PlanTest, SaysHowTheWeightsOfTheRewardsChange) {
  RunPlan plan = count_plan(config({"rewards.reasoning={0: 0, 1000: 2}"}), 1);
  const std::string text = describe_plan(plan);
  EXPECT_THAT(text, HasSubstr("reasoning {0: 0, 1000: 2}, format 1\n"));
  EXPECT_THAT(text, HasSubstr("warning: the schedule of rewards.reasoning ends at step 1000"));
  EXPECT_THAT(text, HasSubstr("reward weights"));
  plan.reward_weights.clear();
  EXPECT_EQ(describe_plan(plan).find("reward weights"), std::string::npos) << "sft has no rewards";
}

TEST_F(PlanTest, SaysWhatARunWouldWarnOf) {
  EXPECT_TRUE(data_doubts(config()).empty());
  const Config shared = config({"data.eval=[" BIQA_SOURCE_DIR "/assets/tiny/train.jsonl]"});
  RunPlan plan = count_plan(shared, 1);
  plan.doubts = data_doubts(shared);
  ASSERT_EQ(plan.doubts.size(), 1U);
  EXPECT_THAT(plan.doubts[0], HasSubstr("shares 7 ids and 7 image files"));
  EXPECT_THAT(describe_plan(plan), HasSubstr("warning: "));
}

TEST_F(PlanTest, MoreRanksShareTheWorkAndANodeHoldsTheWeightsOnce) {
  const RunPlan one = count_plan(config(), 1);
  const RunPlan four = count_plan(config({"roles={actors: 2, rewards: 1, learners: 1}"}), 4);
  EXPECT_EQ(four.rollout_tokens, one.rollout_tokens);
  // What the process holds already is measured, and grows from one plan to the next.
  const auto planned = [](const RunPlan& plan) {
    return plan.memory.peak() - bytes_of(plan.memory.held, "program, tokenizer, manifests");
  };
  EXPECT_LT(planned(four), planned(one));
  EXPECT_LT(four.node_bytes, 4 * four.memory.peak());
  EXPECT_THAT(describe_plan(four), HasSubstr("once per node"));
}

TEST_F(PlanTest, SaysWhatItAssumesOfMissingManifests) {
  const std::string absent = (folder_.path() / "absent.jsonl").string();
  const RunPlan plan = count_plan(config({"data.train=" + absent, "data.eval=[" + absent + "]"}), 1);
  ASSERT_EQ(plan.assumptions.size(), 2U);
  EXPECT_THAT(plan.assumptions[0], HasSubstr("the plan assumes as many images as one step takes, of "
                                             "max_pixels each"));
  EXPECT_THAT(plan.assumptions[1], HasSubstr("it is not counted"));
  EXPECT_EQ(plan.training_images, 4);
  EXPECT_EQ(plan.evaluation_images, 0);
  EXPECT_THAT(describe_plan(plan), HasSubstr("assumed: "));
  EXPECT_THROW(count_plan(config({"model.path=" + absent}), 1), Error);
}

}  // namespace
}  // namespace biqa
