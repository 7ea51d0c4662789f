// SPDX-License-Identifier: Apache-2.0
// Samples to groups with a model that says what the test has written (support/remote/scripted_ops.h).
#include "actor/rollout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "support/remote/scripted_ops.h"

namespace biqa {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::Script;
using testing::ScriptedOps;

const std::filesystem::path kModel = BIQA_SOURCE_DIR "/assets/tiny/model";
constexpr std::uint64_t kSeed = 5;
constexpr std::int64_t kStep = 3;

class RolloutTest : public ::testing::Test {
 protected:
  RolloutTest()
      : script_(std::make_shared<Script>()),
        model_(QwenVl::load(kModel, std::make_shared<ScriptedOps>(script_), {})),
        tokenizer_(Tokenizer::load(kModel)),
        chat_(find_chat_ids(tokenizer_, {})),
        engine_(*model_, {}) {
    options_.group_size = 2;
    options_.prompts = default_prompts(named_profile("paper"));
    options_.seed = kSeed;
    options_.step = kStep;
    options_.policy_version = 8;
    options_.adapter_digest = 99;
    options_.sampling.max_new_tokens = 64;
    options_.stage2_max_new_tokens = 32;
  }

  RolloutSample sample(const std::string& id, std::int64_t index) const {
    auto features = std::make_shared<Tensor>(DType::f32, 4, model_->config().text.hidden, "test");
    features->zero();
    return {id, index, {4.25, "said of " + id}, {{1, 4, 4}, features}};
  }
  /// What a member answers; stage 1 or 2. Ends by itself unless cut.
  void answer(const std::string& id, std::uint64_t member, std::uint64_t stage, const std::string& text,
              bool ends = true) {
    std::vector<std::int64_t> ids = tokenizer_.encode(text);
    if (ends)
      ids.push_back(model_->config().end_tokens.front());
    else
      ids.resize(static_cast<std::size_t>(stage == 1 ? options_.sampling.max_new_tokens
                                                     : options_.stage2_max_new_tokens),
                 tokenizer_.encode("a").front());
    script_->say(RandomStream{kSeed, static_cast<std::uint64_t>(kStep), hash_text(id), member, stage}, ids);
  }
  std::map<std::string, Group> run(const std::vector<RolloutSample>& samples) {
    Rollout rollout(*model_, tokenizer_, chat_, engine_);
    std::map<std::string, Group> groups;
    rollout.run(samples, options_, [&](Group&& group) {
      const std::string id = group.sample_id;
      EXPECT_TRUE(groups.emplace(id, std::move(group)).second) << "a group twice";
    });
    times_ = rollout.times();
    return groups;
  }
  std::string text_of(const std::vector<std::int64_t>& ids) const { return tokenizer_.decode(ids); }

  std::shared_ptr<Script> script_;
  std::unique_ptr<QwenVl> model_;
  Tokenizer tokenizer_;
  ChatIds chat_;
  Engine engine_;
  RolloutOptions options_;
  RolloutTimes times_;
};

TEST_F(RolloutTest, BothStagesFillATrajectory) {
  answer("one", 0, 1,
         "<caption>a cat, 4.50 of 5</caption>\n<reasoning>sharp</reasoning>\n<rating>3.25</rating>");
  answer("one", 0, 2, "<rating>2.75</rating>");
  answer("one", 1, 1, "no tags at all");
  const auto groups = run({sample("one", 7)});
  ASSERT_EQ(groups.size(), 1U);
  const Group& group = groups.at("one");
  EXPECT_EQ(group.sample_index, 7);
  EXPECT_EQ(group.step, kStep);
  EXPECT_EQ(group.annotation.score, 4.25);
  EXPECT_EQ(group.annotation.human_text, "said of one");
  ASSERT_EQ(group.members.size(), 2U);
  const Trajectory& good = group.members[0];
  EXPECT_EQ(good.member, 0);
  EXPECT_EQ(good.policy_version, 8);
  EXPECT_EQ(good.adapter_digest, 99U);
  EXPECT_TRUE(good.finished);
  EXPECT_TRUE(good.format_ok);
  EXPECT_EQ(good.caption, "a cat, 4.50 of 5");
  EXPECT_EQ(good.reasoning, "sharp");
  EXPECT_EQ(good.rating, 3.25);
  EXPECT_EQ(good.behaviour_logp.size(), good.completion_ids.size());
  EXPECT_EQ(good.completion_ids.back(), model_->config().end_tokens.front());
  EXPECT_TRUE(good.stage2_finished);
  EXPECT_EQ(good.stage2_rating, 2.75);
  EXPECT_EQ(good.stage2_behaviour_logp.size(), good.stage2_completion_ids.size());
  const std::string second = text_of(good.stage2_prompt_ids);
  EXPECT_THAT(second, HasSubstr("a cat"));
  EXPECT_THAT(second, Not(HasSubstr("4.50"))) << "the leak guard takes ratings out";
  EXPECT_THAT(second, Not(HasSubstr("sharp")));
  for (const std::int64_t id : good.stage2_prompt_ids) EXPECT_NE(id, model_->config().image_token);
  const Trajectory& bad = group.members[1];
  EXPECT_EQ(bad.member, 1);
  EXPECT_FALSE(bad.format_ok);
  EXPECT_FALSE(bad.rating || bad.caption);
  EXPECT_TRUE(bad.stage2_prompt_ids.empty()) << "without a caption there is nothing to rate";
  EXPECT_EQ(times_.stage1_tokens,
            static_cast<std::int64_t>(good.completion_ids.size() + bad.completion_ids.size()));
  EXPECT_EQ(times_.stage2_tokens, static_cast<std::int64_t>(good.stage2_completion_ids.size()));
}

TEST_F(RolloutTest, OptionsOfTheSecondStage) {
  const std::string text =
      "<caption>dim</caption>\n<reasoning>noise, 2.00</reasoning>\n<rating>2.00</rating>";
  options_.group_size = 1;
  answer("one", 0, 1, text);
  answer("one", 0, 2, "<rating>2.00</rating>");
  options_.stage2_with_reasoning = true;
  std::string prompt = text_of(run({sample("one", 0)}).at("one").members[0].stage2_prompt_ids);
  EXPECT_THAT(prompt, HasSubstr("dim noise"));
  EXPECT_THAT(prompt, Not(HasSubstr("2.00")));
  options_.strip_ratings = false;
  prompt = text_of(run({sample("one", 0)}).at("one").members[0].stage2_prompt_ids);
  EXPECT_THAT(prompt, HasSubstr("dim noise, 2.00"));
  options_.stage2 = false;
  EXPECT_TRUE(run({sample("one", 0)}).at("one").members[0].stage2_prompt_ids.empty());
}

TEST_F(RolloutTest, AnswersThatAreCutAreNotFinished) {
  options_.group_size = 1;
  answer("one", 0, 1, "<caption>c</caption>\n<reasoning>r</reasoning>\n<rating>1.00</rating>", false);
  answer("one", 0, 2, "<rating>2.00</rating>", false);
  const Trajectory cut = run({sample("one", 0)}).at("one").members[0];
  EXPECT_FALSE(cut.finished);
  EXPECT_EQ(static_cast<std::int64_t>(cut.completion_ids.size()), options_.sampling.max_new_tokens);
  EXPECT_FALSE(cut.stage2_finished);
}

TEST_F(RolloutTest, ACaptionTooLongForTheCacheHasNoSecondStage) {
  options_.group_size = 1;
  answer("one", 0, 1, "<caption>c</caption>\n<reasoning>r</reasoning>\n<rating>1.00</rating>");
  options_.stage2_max_new_tokens = 1 << 30;
  const Trajectory answer = run({sample("one", 0)}).at("one").members[0];
  EXPECT_EQ(answer.caption, "c");
  EXPECT_TRUE(answer.stage2_prompt_ids.empty());
  EXPECT_EQ(times_.captions_too_long, 1);
}

/// Gives one sample at a time, the next when the one before has ended.
class OneByOne final : public SampleSource {
 public:
  explicit OneByOne(std::vector<RolloutSample> samples) : samples_(std::move(samples)) {}
  std::vector<RolloutSample> next(bool idle) override {
    if (!idle || given_ == samples_.size()) return {};
    return {samples_[given_++]};
  }
  void finished(const Group& group, std::int64_t tokens) override {
    ended.emplace_back(group.sample_id, tokens);
  }
  std::vector<std::pair<std::string, std::int64_t>> ended;

 private:
  std::vector<RolloutSample> samples_;
  std::size_t given_ = 0;
};

TEST_F(RolloutTest, ASourceIsToldOfTheEndAndOfTheTokensOfBothStages) {
  std::vector<RolloutSample> samples{sample("one", 0), sample("two", 1)};
  for (const auto& s : samples) {
    for (std::uint64_t m = 0; m < 2; ++m) {
      answer(s.id, m, 1, "<caption>" + s.id + "</caption>\n<reasoning>r</reasoning>\n<rating>1.00</rating>");
      answer(s.id, m, 2, "<rating>2.00</rating>");
    }
  }
  OneByOne source(samples);
  Rollout rollout(*model_, tokenizer_, chat_, engine_);
  std::vector<std::string> order;
  std::int64_t tokens = 0;
  rollout.run(source, options_, [&](Group&& group) {
    order.push_back(group.sample_id);
    for (const Trajectory& t : group.members) {
      EXPECT_EQ(t.caption, group.sample_id) << "members of one group are not mixed with another's";
      tokens += static_cast<std::int64_t>(t.completion_ids.size() + t.stage2_completion_ids.size());
    }
  });
  EXPECT_EQ(order, (std::vector<std::string>{"one", "two"}));
  ASSERT_EQ(source.ended.size(), 2U);
  EXPECT_EQ(source.ended[0].first, "one");
  EXPECT_EQ(source.ended[0].second + source.ended[1].second, tokens);
}

}  // namespace
}  // namespace biqa
