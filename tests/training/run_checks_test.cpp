// SPDX-License-Identifier: Apache-2.0
#include "training/run_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

template <typename Work>
std::string error_of(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class RunChecksTest : public ::testing::Test {
 protected:
  RunChecksTest()
      : config_(load_config(BIQA_SOURCE_DIR "/configs/quickstart.yaml")),
        model_(ModelConfig::load(config_.model.path)),
        tokenizer_(Tokenizer::load(config_.model.path)),
        chat_(find_chat_ids(tokenizer_,
                            {model_.text.vocab, model_.vision_start, model_.vision_end, model_.image_token})),
        preprocess_(PreprocessConfig::load(config_.model.path)) {
    chat_.form = find_chat_template(config_.model.path);
    preprocess_.limit(config_.model.pixels());
    config_.rollout.images_per_step = 2;
    for (const char* id : {"small", "large"}) {
      Sample& sample = train_.emplace_back();
      sample.id = id;
      sample.image = std::string(id) + ".png";
      sample.size = {56, 56};
    }
    train_[1].size = {112, 112};
  }
  std::string lengths(const std::vector<std::vector<Sample>>& evaluation = {}) const {
    return error_of([&] {
      check_lengths(config_, {model_, tokenizer_, chat_, preprocess_}, train_, evaluation);
    });
  }

  TemporaryFolder folder_;
  Config config_;
  ModelConfig model_;
  Tokenizer tokenizer_;
  ChatIds chat_;
  PreprocessConfig preprocess_;
  std::vector<Sample> train_;
};

TEST_F(RunChecksTest, TheQuickstartFits) {
  EXPECT_EQ(lengths(), "");
  EXPECT_EQ(lengths({train_}), "");
  EXPECT_EQ(image_tokens({112, 112}, preprocess_), 16);
  EXPECT_EQ(image_tokens({56, 56}, preprocess_), 4);
}

TEST_F(RunChecksTest, TheLargestPictureIsRefusedByName) {
  config_.rollout.max_new_tokens = 1000000;
  EXPECT_THAT(lengths(), AllOf(HasSubstr("cannot run image large.png"), HasSubstr("positions")));
  config_.rollout.max_new_tokens = 8;
  config_.rollout.kv_memory = 1;
  EXPECT_THAT(lengths(), AllOf(HasSubstr("large.png"), HasSubstr("kv_memory")));
}

TEST_F(RunChecksTest, TheSecondStageMustFitToo) {
  config_.rollout.stage2_max_new_tokens = 1000000;
  EXPECT_THAT(lengths(), HasSubstr("second stage, even with an empty caption"));
  config_.stage2.enabled = false;
  EXPECT_EQ(lengths(), "");
  EXPECT_THAT(lengths({train_}), HasSubstr("second stage"));  // an evaluation always has one
}

TEST_F(RunChecksTest, AnswersToLearnFromMustFit) {
  config_.objective.loss.loss = Loss::sft;
  config_.rollout.max_new_tokens = 1000000;  // nothing is rolled out
  for (Sample& sample : train_) sample.completion = "good";
  EXPECT_EQ(lengths(), "");
  for (std::int64_t i = 0; i < model_.text.max_position; ++i) train_[0].completion += " good";
  EXPECT_THAT(lengths(), AllOf(HasSubstr("the completion of sample small"), HasSubstr("shorten it")));
}

TEST_F(RunChecksTest, AStepNeedsItsImagesAndSftItsAnswers) {
  EXPECT_EQ(error_of([&] { check_training_data(config_, train_); }), "");
  config_.rollout.images_per_step = 3;
  EXPECT_THAT(error_of([&] { check_training_data(config_, train_); }),
              HasSubstr("rollout.images_per_step 3 is more than the 2 images"));
  config_.rollout.images_per_step = 2;
  config_.objective.loss.loss = Loss::sft;
  train_[0].completion = "good";
  EXPECT_THAT(error_of([&] { check_training_data(config_, train_); }),
              AllOf(HasSubstr("sample large"), HasSubstr("has no \"completion\"")));
}

TEST_F(RunChecksTest, SchedulesOfWeightsBeyondTheRunAreTold) {
  EXPECT_TRUE(schedule_doubts(config_, 1).empty());
  config_.rewards.weights[reward_column("reasoning")] = WeightSchedule({{0, 0}, {100, 2}});
  EXPECT_TRUE(schedule_doubts(config_, 100).empty());
  const std::vector<std::string> doubts = schedule_doubts(config_, 25);
  ASSERT_EQ(doubts.size(), 1U);
  EXPECT_THAT(doubts[0], AllOf(HasSubstr("rewards.reasoning ends at step 100, but the run at step 25"),
                               HasSubstr("the weight ends at 0.5, not 2")));
  config_.objective.loss.loss = Loss::sft;
  EXPECT_TRUE(schedule_doubts(config_, 25).empty());
}

TEST_F(RunChecksTest, AReasoningRewardWithoutHumanTextsIsTold) {
  const std::size_t reasoning = reward_column("reasoning");
  const std::vector<std::string> doubts = text_doubts(config_, train_);
  ASSERT_EQ(doubts.size(), 1U);
  EXPECT_THAT(doubts[0], AllOf(HasSubstr("no image of " + config_.data.train.string() + " has a human text"),
                               HasSubstr("import q-reasoning"), HasSubstr("set rewards.reasoning to 0")));
  config_.rewards.weights[reasoning] = 0;
  EXPECT_TRUE(text_doubts(config_, train_).empty());
  config_.rewards.weights[reasoning] = WeightSchedule({{0, 0}, {100, 2}});
  EXPECT_EQ(text_doubts(config_, train_).size(), 1U);
  config_.data.annotation_fraction = 0;  // deliberate
  EXPECT_TRUE(text_doubts(config_, train_).empty());
  config_.data.annotation_fraction = 0.5;
  EXPECT_EQ(text_doubts(config_, train_).size(), 1U);
  EXPECT_TRUE(text_doubts(config_, {}).empty()) << "the manifest is not there yet";
  config_.objective.loss.loss = Loss::sft;  // has no rewards
  EXPECT_TRUE(text_doubts(config_, train_).empty());
  config_.objective.loss.loss = Loss::grpo;
  train_[1].bad = "blurred";
  EXPECT_TRUE(text_doubts(config_, train_).empty());
}

TEST_F(RunChecksTest, EveryMissingFileIsNamed) {
  EXPECT_EQ(error_of([&] { require_inputs(config_); }), "");
  config_.data.train = folder_.path() / "absent.jsonl";
  config_.data.eval = {folder_.path() / "gone.jsonl"};
  config_.model.adapter = folder_.path() / "runs/warmup/adapter";
  EXPECT_THAT(error_of([&] { require_inputs(config_); }),
              AllOf(HasSubstr("data.train"), HasSubstr("absent.jsonl"), HasSubstr("gone.jsonl"),
                    HasSubstr("model.adapter " + config_.model.adapter.string())));
  config_.data.train.clear();
  EXPECT_THAT(error_of([&] { require_inputs(config_); }), HasSubstr("data.train is not set"));
}

TEST_F(RunChecksTest, InputsThatCannotBeOpenedAreNamed) {
  config_.rewards.reasoning_kind = ReasoningKind::semantic;
  config_.rewards.similarity_model = BIQA_SOURCE_DIR "/tests/fixtures/sentence";
  config_.rewards.lexicon = BIQA_SOURCE_DIR "/assets/lexicon/quality.txt";
  EXPECT_EQ(error_of([&] { check_inputs(config_); }), "");
  const auto error_with = [&](const auto& change) {
    Config changed = config_;
    change(changed);
    return error_of([&] { check_inputs(changed); });
  };
  const auto names = [&](const std::string& key, const std::filesystem::path& path) {
    return HasSubstr("cannot start with " + config_.file.string() + ": " + key + " " + path.string() + ": ");
  };
  const std::filesystem::path empty = folder_.path();
  EXPECT_THAT(error_with([&](Config& c) { c.model.path = empty; }), names("model.path", empty));
  EXPECT_THAT(error_with([&](Config& c) { c.model.adapter = empty; }), names("model.adapter", empty));
  const auto wrong_encoder = [&](Config& c) { c.rewards.similarity_model = empty; };
  EXPECT_THAT(error_with(wrong_encoder), names("rewards.similarity_model", empty));
  const auto wrong_lexicon = [&](Config& c) { c.rewards.lexicon = folder_.write("words.txt", "sharp\n"); };
  EXPECT_THAT(error_with(wrong_lexicon), names("rewards.lexicon", folder_.path() / "words.txt"));
  EXPECT_THAT(error_with([&](Config& c) { c.data.eval = {empty / "gone.jsonl"}; }), HasSubstr("gone.jsonl"));
  // An encoder that no reward asks is not opened.
  config_.rewards.reasoning_kind = ReasoningKind::rouge;
  EXPECT_EQ(error_with(wrong_encoder), "");
}

}  // namespace
}  // namespace biqa
