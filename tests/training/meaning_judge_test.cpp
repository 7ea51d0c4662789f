// SPDX-License-Identifier: Apache-2.0
#include "training/meaning_judge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "comm/communicator.h"
#include "core/error.h"
#include "support/temporary_folder.h"
#include "training/trainer.h"

namespace biqa {
namespace {

using ::testing::HasSubstr;

const std::string kModel = BIQA_SOURCE_DIR "/tests/fixtures/sentence";
const std::vector<std::string> kTexts{"the picture is sharp", "noise and blur", "a very blurry photo",
                                      "colours are washed out", "a dog"};

MeaningJudge judge_of(const std::vector<std::string>& texts, std::uint64_t seed = 1) {
  return {SentenceEncoder::open(kModel, 1), Lexicon::built_in(), texts, seed};
}

std::vector<float> vector_of(const std::string& text) {
  const std::string_view view = text;
  return SentenceEncoder::open(kModel, 1).encode({&view, 1});
}

TEST(MeaningJudge, SimilarityIsTheExcessOverOtherImages) {
  MeaningJudge judge = judge_of(kTexts);
  EXPECT_EQ(judge.others(), kTexts.size());
  const std::string text = "noise and blur in the picture";
  const std::vector<float> own = vector_of(text);
  bool above = false, below = false;
  for (const std::string& human_text : kTexts) {
    double chance = 0;
    for (const std::string& other : kTexts) {
      if (other != human_text) chance += cosine(own, vector_of(other)) / 4;
    }
    const double excess = (cosine(own, vector_of(human_text)) - chance) / (1 - chance);
    EXPECT_NEAR(judge.similarity(human_text, text), std::max(0.0, excess), 1e-12);
    (excess > 0 ? above : below) = true;
  }
  EXPECT_TRUE(above && below);
  EXPECT_NEAR(judge.similarity(kTexts[0], kTexts[0]), 1, 1e-6);
  EXPECT_EQ(judge.similarity(kTexts[0], " \n"), 0);
}

TEST(MeaningJudge, OneTextForAllImagesIsNotAboveChanceForAllOfThem) {
  // With two images, each is the other's chance level. However close a text is to both, only one can be closer.
  const std::vector<std::string> two{kTexts[0], kTexts[1]};
  MeaningJudge judge = judge_of(two);
  for (const std::string& style : kTexts) {
    const double first = judge.similarity(two[0], style), second = judge.similarity(two[1], style);
    EXPECT_EQ(std::min(first, second), 0) << style;
    EXPECT_GT(std::max(first, second), 0) << style;
    EXPECT_GT(cosine(vector_of(style), vector_of(two[0])), 0) << style << ": a plain cosine would reward it";
  }
}

TEST(MeaningJudge, ChoosesTheSameTextsWhateverTheirOrder) {
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < MeaningJudge::kMostOthers + 40; ++i)
    texts.push_back("photo " + std::to_string(i));
  MeaningJudge judge = judge_of(texts);
  EXPECT_EQ(judge.others(), MeaningJudge::kMostOthers);
  std::reverse(texts.begin(), texts.end());
  texts.push_back(texts.front());  // a text that two images share counts once
  MeaningJudge same = judge_of(texts), other = judge_of(texts, 2);
  EXPECT_EQ(same.mean_chance(), judge.mean_chance());
  EXPECT_NE(other.mean_chance(), judge.mean_chance());
  EXPECT_EQ(same.similarity("photo 3", "photo"), judge.similarity("photo 3", "photo"));
}

TEST(MeaningJudge, NeedsTwoHumanTexts) {
  try {
    judge_of({"sharp", "sharp"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("at least two different human texts in data.train, which has 1"));
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
}

TEST(MeaningJudge, PolarityOfAHumanTextWithoutQualityIsNothing) {
  MeaningJudge judge(std::nullopt, Lexicon::built_in(), {}, 1);
  EXPECT_EQ(judge.polarity("a sharp boat", "a blurry boat"), 0);
  EXPECT_EQ(judge.polarity("a sharp boat", "it is not blurry"), 1);
  EXPECT_EQ(judge.polarity("a sharp boat", "a boat"), 0);
  EXPECT_FALSE(judge.polarity("a boat", "a sharp boat").has_value());
}

/// Reasoning rewards of one step.
std::vector<double> rewards_of_run(const std::string& kind, int ranks) {
  const TemporaryFolder folder;
  const auto out = folder.path() / "run";
  const std::vector<std::string> settings{"train.out=" + out.string(),
                                          "train.steps=1",
                                          "train.eval_images=2",
                                          "train.progress=false",
                                          "train.seed=7",
                                          "checkpoint.every=0",
                                          "model.threads=1",
                                          "rollout.images_per_step=2",
                                          "rollout.group_size=3",
                                          "rewards.floor=0",
                                          "rewards.reasoning_kind=" + kind,
                                          "rewards.similarity_model=" + kModel};
  const Config config = load_config(BIQA_SOURCE_DIR "/configs/quickstart.yaml", settings);
  auto world = make_thread_world(ranks, Seconds(120));
  std::vector<StopSignals> signals(world.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < world.size(); ++i)
    threads.emplace_back([&, i] { EXPECT_EQ(run_training(config, *world[i], signals[i]), ExitCode::done); });
  for (std::thread& thread : threads) thread.join();
  std::ifstream samples(out / "samples.jsonl");
  std::vector<double> values;
  for (std::string line; std::getline(samples, line);)
    values.push_back(nlohmann::json::parse(line).at("rewards").at("reasoning"));
  return values;
}

TEST(MeaningJudge, TrainingUsesItOnAnyLayoutOfRanks) {
  const std::vector<double> rouge = rewards_of_run("rouge", 1);
  const std::vector<double> mix = rewards_of_run("mix", 1);
  ASSERT_EQ(mix.size(), 6U);
  EXPECT_NE(mix, rouge);
  EXPECT_NE(rewards_of_run("semantic", 1), mix);
  EXPECT_EQ(rewards_of_run("mix", 3), mix);
}

}  // namespace
}  // namespace biqa
