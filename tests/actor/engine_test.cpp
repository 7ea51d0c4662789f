// SPDX-License-Identifier: Apache-2.0
// What a sequence becomes is a function of its prompt, its stream and the adapter alone.
#include "actor/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "model/training_pass.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

using ::testing::HasSubstr;
using testing::TinyModel;

using Results = std::map<std::pair<std::uint64_t, std::size_t>, Generated>;

void expect_same(const Results& a, const Results& b, const char* what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (const auto& [key, result] : a) {
    ASSERT_EQ(b.count(key), 1U) << what;
    const Generated& other = b.at(key);
    EXPECT_EQ(result.ids, other.ids) << what << ": tag " << key.first << " member " << key.second;
    EXPECT_EQ(result.logp, other.logp) << what << ": tag " << key.first << " member " << key.second;
    EXPECT_EQ(result.entropy, other.entropy) << what << ": tag " << key.first << " member " << key.second;
    EXPECT_EQ(result.ended, other.ended) << what << ": tag " << key.first << " member " << key.second;
  }
}

class EngineTest : public ::testing::TestWithParam<DType> {
 protected:
  EngineTest() : model_(testing::load(files_, GetParam())) {
    prompts_.push_back(std::make_shared<PromptInput>(testing::image_prompt(*model_, 2, 2, 14, 1, features_)));
    for (const std::int64_t length : {1, 16, 33}) {
      prompts_.push_back(std::make_shared<PromptInput>(
          testing::text_prompt(model_->config(), length, static_cast<std::uint64_t>(length))));
    }
    lora_ = testing::random_adapter(model_->config(), 3);
    adapter_ = pack_adapter(*model_, lora_);
  }

  GenerateRequest request(std::uint64_t tag) const {
    GenerateRequest r;
    r.prompt = prompts_[static_cast<std::size_t>(tag) % prompts_.size()];
    r.tag = tag;
    for (std::uint64_t m = 0; m < 1 + tag % 3; ++m) r.streams.push_back(RandomStream{7, tag, m});
    r.sampling.temperature = tag % 2 == 0 ? 1.0F : 0.7F;
    r.sampling.greedy = tag % 5 == 4;
    r.sampling.top_k = tag % 3 == 1 ? 20 : 0;
    r.sampling.top_p = tag % 4 == 2 ? 0.9F : 1.0F;
    r.sampling.max_new_tokens = 5 + static_cast<std::int64_t>(tag) * 3;
    return r;
  }
  Results run(const std::vector<GenerateRequest>& requests, Engine::Options options) const {
    Engine engine(*model_, options);
    engine.set_adapter(adapter_);
    for (const GenerateRequest& r : requests) engine.submit(r);
    Results results;
    engine.run([&](Generated&& g) {
      const auto key = std::pair(g.tag, g.member);
      EXPECT_TRUE(results.emplace(key, std::move(g)).second) << "finished twice";
    });
    return results;
  }
  std::int64_t page_bytes() const {
    const TextConfig& text = model_->config().text;
    return model_->ops().kv_layout(head_shape(text)).page_bytes * text.layers;
  }
  std::int64_t page_tokens() const {
    return model_->ops().kv_layout(head_shape(model_->config().text)).page_tokens;
  }

  TinyModel files_{true};
  std::unique_ptr<QwenVl> model_;
  Tensor features_;
  std::vector<std::shared_ptr<const PromptInput>> prompts_;
  Lora lora_;
  std::shared_ptr<const PackedAdapter> adapter_;
};
INSTANTIATE_TEST_SUITE_P(Types, EngineTest, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& type) { return name_of(type.param); });

TEST_P(EngineTest, CompanyOrderAndMemoryChangeNothing) {
  std::vector<GenerateRequest> requests;
  for (std::uint64_t tag = 0; tag < 8; ++tag) requests.push_back(request(tag));
  Results alone;
  std::size_t members = 0;
  for (const GenerateRequest& r : requests) {
    alone.merge(run({r}, {}));
    members += r.streams.size();
  }
  ASSERT_EQ(alone.size(), members);
  expect_same(alone, run(requests, {}), "together");
  std::vector<GenerateRequest> reversed(requests.rbegin(), requests.rend());
  expect_same(alone, run(reversed, {}), "in reverse");
  for (std::size_t i = 0; i < reversed.size(); i += 2) reversed[i].urgent = true;
  expect_same(alone, run(reversed, {}), "some urgent");
  // The largest request, a prompt of 33 with two members of 26 more, needs 3 + 2·(4 − 2) pages; then others must wait.
  expect_same(alone, run(requests, {7 * page_bytes(), 2048}), "with seven pages");
  expect_same(alone, run(requests, {20 * page_bytes(), 2048}), "with twenty pages");
  expect_same(alone, run(requests, {std::int64_t{4} << 30, 1}), "one prompt at a time");
}

TEST_P(EngineTest, MoreMayBeSubmittedWhileItRuns) {
  Results alone;
  for (const std::uint64_t tag : {0, 1, 2, 3}) alone.merge(run({request(tag)}, {}));
  Engine engine(*model_, {});
  engine.set_adapter(adapter_);
  engine.submit(request(3));
  std::uint64_t next = 3;
  Results results;
  engine.run([&](Generated&& g) {
    results.emplace(std::pair(g.tag, g.member), std::move(g));
    if (next > 0) engine.submit(request(--next));
  });
  expect_same(alone, results, "submitted one after the other");
  EXPECT_EQ(engine.statistics().prompt_tokens, 20 + 1 + 16 + 33);
}

// Prompts that begin alike: what is computed once must be what each would have computed.
TEST_P(EngineTest, ASharedBeginningChangesNothing) {
  const std::int64_t page = page_tokens();
  std::vector<GenerateRequest> requests;
  // The beginnings agree in three pages and a bit, in one page, and in nothing; one prompt is a beginning of others.
  for (std::uint64_t tag = 0; tag < 7; ++tag) {
    const std::int64_t length = tag == 6 ? 3 * page : 3 * page + 5 + static_cast<std::int64_t>(tag);
    PromptInput prompt = testing::text_prompt(model_->config(), length, 11);
    const std::int64_t first_other = tag == 5 ? 0 : tag == 4 ? page + 1 : 3 * page + 2;
    const PromptInput other = testing::text_prompt(model_->config(), length, 20 + tag);
    std::copy(other.ids.begin() + std::min(first_other, length), other.ids.end(),
              prompt.ids.begin() + std::min(first_other, length));
    GenerateRequest r = request(tag);
    r.prompt = std::make_shared<PromptInput>(std::move(prompt));
    requests.push_back(std::move(r));
  }
  Results alone;
  for (const GenerateRequest& r : requests) alone.merge(run({r}, {}));
  for (GenerateRequest& r : requests) r.shares_beginning = true;
  expect_same(alone, run(requests, {}), "admitted together");
  // Each pass admits one prompt, so the later ones find the beginning.
  expect_same(alone, run(requests, {std::int64_t{4} << 30, 1}), "one prompt at a time");
  expect_same(alone, run({requests.rbegin(), requests.rend()}, {std::int64_t{4} << 30, 1}), "in reverse");
  // The largest request has 3 members of 6 pages, of which the first 3 are the prompt's.
  expect_same(alone, run(requests, {14 * page_bytes(), 1}), "with little memory");
}

TEST_P(EngineTest, ASharedBeginningIsComputedOnceAndForgottenAtTheEnd) {
  const std::int64_t page = page_tokens();
  GenerateRequest r = request(0);
  r.prompt = std::make_shared<PromptInput>(testing::text_prompt(model_->config(), 2 * page + 3, 11));
  r.shares_beginning = true;
  r.sampling.ignore_end = true;
  Engine engine(*model_, {std::int64_t{4} << 30, 1});
  const auto run_three = [&](std::shared_ptr<const PackedAdapter> adapter) {
    engine.set_adapter(std::move(adapter));
    engine.reset_statistics();
    for (std::uint64_t tag = 0; tag < 3; ++tag) {
      r.tag = tag;
      engine.submit(r);
    }
    Results results;
    engine.run([&](Generated&& g) { results.emplace(std::pair(g.tag, g.member), std::move(g)); });
    EXPECT_EQ(engine.statistics().prompt_tokens, 3 * (2 * page + 3));
    EXPECT_EQ(engine.statistics().shared_prompt_tokens, 2 * 2 * page);
    return results;
  };
  const Results first = run_three(adapter_);
  const Results other = run_three(pack_adapter(*model_, testing::random_adapter(model_->config(), 4)));
  EXPECT_NE(first.at({1, 0}).logp, other.at({1, 0}).logp) << "the keys of another adapter";
  expect_same(first, run_three(adapter_), "the first adapter again");
  r.shares_beginning = false;
  r.tag = 1;
  Engine fresh(*model_, {});
  fresh.set_adapter(pack_adapter(*model_, testing::random_adapter(model_->config(), 4)));
  fresh.submit(r);
  fresh.run([&](Generated&& g) { EXPECT_EQ(g.logp, other.at({1, 0}).logp); });
}

// The learner's log-probabilities of what was sampled are the engine's, to the bit: on-policy ratios are exactly 1.
TEST_P(EngineTest, LogProbabilitiesAreTheTrainingPasss) {
  for (const std::uint64_t tag : {0, 1, 2, 3, 7}) {
    const GenerateRequest r = request(tag);
    const Results results = run({r}, {});
    PromptGroup group{r.prompt.get(), {}, 0};
    for (const auto& [key, g] : results) group.completions.emplace_back(g.ids);
    for (const bool gradient : {false, true}) {
      PassOptions options;
      options.temperature = r.sampling.temperature;
      options.gradient = gradient;
      TrainingPass pass(*model_, adapter_.get(), options);
      TokenValues logp;
      TokenValues entropy;
      pass.forward(std::span(&group, 1), logp, entropy);
      for (const auto& [key, g] : results) {
        EXPECT_EQ(g.logp, logp[0][key.second]) << "tag " << tag;
        EXPECT_EQ(g.entropy, entropy[0][key.second]) << "tag " << tag;
      }
    }
  }
}

TEST_P(EngineTest, EndsAtTheEndTokenOrTheLimit) {
  std::size_t ended = 0;
  for (std::uint64_t tag = 0; tag < 12; ++tag) {
    GenerateRequest r = request(0);
    r.tag = tag;
    r.streams = {RandomStream{9, tag}};
    r.sampling = {};
    r.sampling.temperature = 3.0F;
    r.sampling.max_new_tokens = 60;
    const Generated g = run({r}, {}).begin()->second;
    EXPECT_EQ(g.ended, g.ids.back() == TinyModel::kEndToken);
    EXPECT_EQ(std::count(g.ids.begin(), g.ids.end() - 1, TinyModel::kEndToken), 0);
    EXPECT_TRUE(g.ended || g.ids.size() == 60);
    EXPECT_EQ(g.logp.size(), g.ids.size());
    ended += g.ended ? 1U : 0U;
    r.sampling.ignore_end = true;
    const Generated whole = run({r}, {}).begin()->second;
    EXPECT_EQ(whole.ids.size(), 60U);
    EXPECT_FALSE(whole.ended);
    EXPECT_TRUE(std::equal(g.ids.begin(), g.ids.end(), whole.ids.begin()));
  }
  EXPECT_GT(ended, 0U) << "none of twelve texts ended: choose another temperature";
}

TEST_P(EngineTest, PlaceholdersAreNeverSampled) {
  GenerateRequest r = request(1);
  r.sampling = {};
  r.sampling.temperature = 20.0F;  // nearly uniform over 100 ids, 5 of which must not come
  r.sampling.ignore_end = true;
  r.sampling.max_new_tokens = 40;
  r.streams.clear();
  for (std::uint64_t m = 0; m < 20; ++m) r.streams.push_back(RandomStream{3, m});
  std::map<std::int64_t, int> counts;
  for (const auto& [key, g] : run({r}, {})) {
    for (const std::int64_t id : g.ids) ++counts[id];
  }
  for (const std::int64_t id : TinyModel::placeholder_tokens()) EXPECT_EQ(counts.count(id), 0U) << id;
  EXPECT_GT(counts.size(), 85U) << "800 nearly uniform draws meet almost all of the 95 ids";
}

// First tokens of many members follow the distribution that log_prob gives, cut as asked.
TEST_P(EngineTest, FirstTokensFollowTheDistribution) {
  constexpr std::size_t kMembers = 3000;
  std::vector<std::vector<std::int64_t>> ids(100);
  PromptGroup group{prompts_[2].get(), {}, 0};
  for (std::size_t i = 0; i < 100; ++i) {
    ids[i] = {static_cast<std::int64_t>(i)};
    group.completions.emplace_back(ids[i]);
  }
  TrainingPass pass(*model_, adapter_.get(), {});
  TokenValues logp;
  TokenValues entropy;
  pass.forward(std::span(&group, 1), logp, entropy);
  std::vector<double> p;
  for (std::size_t i = 0; i < 100; ++i) p.push_back(std::exp(static_cast<double>(logp[0][i][0])));
  for (const std::int64_t id : TinyModel::placeholder_tokens()) p[static_cast<std::size_t>(id)] = 0;

  const auto check = [&](std::int32_t top_k, float top_p, const std::vector<double>& weights) {
    GenerateRequest r;
    r.prompt = prompts_[2];
    r.sampling.max_new_tokens = 1;
    r.sampling.top_k = top_k;
    r.sampling.top_p = top_p;
    for (std::size_t m = 0; m < kMembers; ++m) r.streams.push_back(RandomStream{21, m});
    std::vector<double> counts(100, 0.0);
    for (const auto& [key, g] : run({r}, {})) counts[static_cast<std::size_t>(g.ids[0])] += 1;
    double total = 0;
    for (const double w : weights) total += w;
    for (std::size_t i = 0; i < 100; ++i) {
      const double mean = kMembers * weights[i] / total;
      // Five standard deviations of a binomial count, and one draw.
      EXPECT_NEAR(counts[i], mean, 5 * std::sqrt(mean) + 1)
          << "id " << i << " top_k " << top_k << " top_p " << top_p;
      if (weights[i] == 0) {
        EXPECT_EQ(counts[i], 0) << "id " << i << " top_k " << top_k << " top_p " << top_p;
      }
    }
  };
  check(0, 1.0F, p);
  std::vector<std::size_t> order(100);
  for (std::size_t i = 0; i < 100; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
  const auto first = [&](std::size_t count) {
    std::vector<double> cut(100, 0.0);
    for (std::size_t i = 0; i < count; ++i) cut[order[i]] = p[order[i]];
    return cut;
  };
  check(6, 1.0F, first(6));
  double allowed = 0;
  for (const double value : p) allowed += value;
  const double half =
      (p[order[0]] + p[order[1]] + p[order[2]] / 2) / allowed;  // the third is the one that reaches it
  check(0, static_cast<float>(half), first(3));
}

TEST_P(EngineTest, WhatCanNeverFitIsRefused) {
  Engine engine(*model_, {6 * page_bytes(), 2048});
  GenerateRequest r = request(3);  // 33 tokens
  r.streams.resize(1, RandomStream{1});
  r.sampling.max_new_tokens = 31;
  engine.submit(r);
  r.sampling.max_new_tokens =
      5 * page_tokens();  // the member alone needs 6 pages of its own, and the prompt has some
  EXPECT_THAT(biqa::error_of([&] { engine.submit(r); }), HasSubstr("rollout.kv_memory allows"));
  r.sampling.max_new_tokens = 480;
  EXPECT_THAT(biqa::error_of([&] { engine.submit(r); }), HasSubstr("longer than the model's 512 positions"));
  std::size_t finished = 0;
  engine.run([&](Generated&&) { ++finished; });
  EXPECT_EQ(finished, 1U) << "a refusal leaves what was accepted alone";
}

TEST_P(EngineTest, StatisticsCountWhatWasDone) {
  Engine engine(*model_, {});
  GenerateRequest r = request(2);
  r.sampling.ignore_end = true;
  r.sampling.max_new_tokens = 9;
  engine.submit(r);
  engine.run([](Generated&&) {});
  EXPECT_EQ(engine.statistics().prompt_tokens, 16);
  EXPECT_EQ(engine.statistics().generated_tokens, 27);
  EXPECT_EQ(engine.statistics().iterations, 9);
  engine.reset_statistics();
  EXPECT_EQ(engine.statistics().iterations, 0);
}

}  // namespace
}  // namespace biqa
