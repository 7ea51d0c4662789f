// SPDX-License-Identifier: Apache-2.0
// Updates over micro-batches and over learners.
#include "learner/learner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <limits>
#include <set>
#include <thread>

#include "support/tiny_model.h"

namespace biqa {
namespace {

using testing::TinyModel;

double distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  return std::sqrt(sum);
}
double norm_of(std::span<const float> a) {
  return distance(a, std::vector<float>(a.size(), 0.0F));
}

/// Six groups of 1 to 4 members, with masks here and there, and behaviour log-probabilities near what the
/// network gives.
struct Data {
  explicit Data(const QwenVl& model) {
    for (std::uint64_t g = 0; g < 6; ++g) {
      auto prompt = std::make_shared<PromptInput>(
          testing::text_prompt(model.config(), 9 + 4 * static_cast<std::int64_t>(g), g));
      auto& ids = completions.emplace_back();
      for (std::uint64_t m = 0; m < 1 + g % 4; ++m) {
        ids.push_back(testing::random_ids(static_cast<std::int64_t>(1 + (5 * g + 3 * m) % 11), 100 * g + m));
      }
      PromptGroup group{prompt.get(), {ids.begin(), ids.end()}, 0};
      TrainingPass pass(model, nullptr, {});
      TokenValues logp;
      TokenValues entropy;
      pass.forward(std::span(&group, 1), logp, entropy);
      behaviour.push_back(logp[0]);
      auto& group_masks = masks.emplace_back();
      LearnerGroup scored{prompt, {}, 500 + g};
      for (std::size_t m = 0; m < ids.size(); ++m) {
        const auto noise = testing::random_values(ids[m].size(), 0.3, 1000 * g + m);
        for (std::size_t t = 0; t < noise.size(); ++t) behaviour[g][m][t] += noise[t];
        group_masks.emplace_back(ids[m].size(), 1.0F);
        if (ids[m].size() > 3) group_masks.back()[2] = 0.0F;
      }
      for (std::size_t m = 0; m < ids.size(); ++m) {
        const bool masked = (g + m) % 2 == 0;
        scored.sequences.push_back(
            {ids[m], behaviour[g][m],
             masked ? std::span<const float>(group_masks[m]) : std::span<const float>(),
             m % 2 == 0 ? 1.0 : -0.7});
      }
      groups.push_back(std::move(scored));
    }
  }
  std::vector<std::vector<std::vector<std::int64_t>>> completions;
  std::vector<std::vector<std::vector<float>>> behaviour, masks;
  std::vector<LearnerGroup> groups;
};

LearnerOptions options() {
  LearnerOptions o;
  o.objective.beta = 0.05;
  o.adamw.weight_decay = 0.01;
  o.max_grad_norm = 0.5;
  o.longest_allowed = 16;
  return o;
}

struct Outcome {
  std::vector<float> values, gradient, m, v;
  UpdateResult result;
  std::vector<SequenceResult> records;
  std::int64_t updates = 0;
  std::pair<std::size_t, std::size_t> shard;
};

class LearnerTest : public ::testing::Test {
 protected:
  LearnerTest()
      : model_(testing::load(files_, DType::f32)),
        data_(*model_),
        start_(testing::random_adapter(model_->config(), 4)) {}

  /// Two updates with the groups dealt out in turn; what every learner holds in the end.
  std::vector<Outcome> train(int learners, const LearnerOptions& o, int updates = 2) const {
    const auto world = make_thread_world(learners, Seconds(60));
    std::vector<Outcome> outcomes(static_cast<std::size_t>(learners));
    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(learners));
    for (int rank = 0; rank < learners; ++rank) {
      threads.emplace_back([&, rank] {
        // A network of its own: a rank is a process in earnest.
        const auto model = testing::load(files_, DType::f32);
        const auto at = static_cast<std::size_t>(rank);
        std::vector<LearnerGroup> own;
        for (std::size_t g = at; g < data_.groups.size(); g += static_cast<std::size_t>(learners))
          own.push_back(data_.groups[g]);
        Learner learner(*model, start_, nullptr, *world[at], o);
        Outcome& outcome = outcomes[at];
        for (int u = 0; u < updates; ++u) {
          outcome.records.clear();
          outcome.result = learner.update(own, 1e-2, &outcome.records);
        }
        outcome.values = learner.adapter().values;
        outcome.gradient = learner.collect_gradient();
        learner.collect_moments(outcome.m, outcome.v);
        outcome.updates = learner.updates();
        outcome.shard = {learner.shard().begin, learner.shard().end};
      });
    }
    for (std::thread& thread : threads) thread.join();
    return outcomes;
  }

  TinyModel files_;
  std::unique_ptr<QwenVl> model_;
  Data data_;
  Lora start_;
};

// Gradients that are sums of the same terms in other orders differ by some roundings of their size. AdamW
// divides by the gradient's own size, so an element whose gradient is near zero may turn with its rounding:
// what counts is the step's distance as a whole.
constexpr double kRounding = 300 * 0x1.0p-24;
void expect_near(const Outcome& a, const Outcome& b, const Lora& start, const char* what) {
  EXPECT_LT(distance(a.gradient, b.gradient), 10 * kRounding * norm_of(a.gradient)) << what;
  EXPECT_LT(distance(a.values, b.values), 1e-3 * distance(a.values, start.values)) << what;
  EXPECT_LT(distance(a.m, b.m), 10 * kRounding * norm_of(a.m)) << what;
  EXPECT_NEAR(a.result.loss, b.result.loss, 1e-5) << what;
  EXPECT_NEAR(a.result.kl, b.result.kl, 1e-5) << what;
  EXPECT_NEAR(a.result.entropy, b.result.entropy, 1e-5) << what;
  EXPECT_NEAR(a.result.grad_norm, b.result.grad_norm, 1e-4 * a.result.grad_norm) << what;
  EXPECT_EQ(a.result.tokens, b.result.tokens) << what;
}
void expect_same(const Outcome& a, const Outcome& b, const char* what) {
  EXPECT_EQ(a.values, b.values) << what;
  EXPECT_EQ(a.gradient, b.gradient) << what;
  EXPECT_EQ(a.m, b.m) << what;
  EXPECT_EQ(a.v, b.v) << what;
  EXPECT_EQ(a.result.loss, b.result.loss) << what;
}

std::int64_t rows_of(const LearnerGroup& group) {
  auto rows = static_cast<std::int64_t>(group.prompt->ids.size());
  for (const LearnerSequence& s : group.sequences) rows += static_cast<std::int64_t>(s.completion.size()) - 1;
  return rows;
}

TEST_F(LearnerTest, MicroBatchesHoldEverySequenceOnceWithinTheLimit) {
  std::size_t batches_before = std::numeric_limits<std::size_t>::max();
  for (const std::int64_t limit : {1, 12, 25, 40, 64, 100, 100000}) {
    const auto batches = plan_micro_batches(data_.groups, limit);
    std::vector<const std::int64_t*> seen;
    for (const auto& batch : batches) {
      ASSERT_FALSE(batch.empty());
      std::int64_t rows = 0;
      std::size_t sequences = 0;
      for (const LearnerGroup& piece : batch) {
        ASSERT_FALSE(piece.sequences.empty());
        rows += rows_of(piece);
        for (const LearnerSequence& s : piece.sequences) {
          seen.push_back(s.completion.data());
          ++sequences;
          const auto& whole = *std::find_if(data_.groups.begin(), data_.groups.end(),
                                            [&](const LearnerGroup& g) { return g.prompt == piece.prompt; });
          EXPECT_EQ(piece.dropout_key, whole.dropout_key);
        }
      }
      EXPECT_TRUE(rows <= limit || sequences == 1) << rows << " rows in a micro-batch of " << limit;
    }
    std::vector<const std::int64_t*> expected;
    for (const LearnerGroup& g : data_.groups) {
      for (const LearnerSequence& s : g.sequences) expected.push_back(s.completion.data());
    }
    EXPECT_EQ(seen, expected) << "every sequence once and in order";
    EXPECT_LE(batches.size(), batches_before) << "more room never takes more micro-batches here";
    batches_before = batches.size();
  }
  EXPECT_EQ(plan_micro_batches(data_.groups, 100000).size(), 1U);
  EXPECT_EQ(plan_micro_batches(data_.groups, 1).size(), 13U) << "one sequence each";
  EXPECT_TRUE(plan_micro_batches({}, 10).empty());
}

TEST_F(LearnerTest, MicroBatchesChangeNothingButRounding) {
  for (const Loss loss : {Loss::grpo, Loss::dr_grpo, Loss::dapo, Loss::gspo}) {
    LearnerOptions o = options();
    o.objective.loss = loss;
    const Outcome whole = train(1, o)[0];
    ASSERT_GT(norm_of(whole.gradient), 1e-3);
    for (const std::int64_t tokens : {1, 40}) {
      o.micro_batch_tokens = tokens;
      const Outcome pieces = train(1, o)[0];
      expect_near(whole, pieces, start_, "micro-batches");
      ASSERT_EQ(pieces.records.size(), whole.records.size());
      for (std::size_t i = 0; i < whole.records.size(); ++i) {
        ASSERT_EQ(pieces.records[i].reference_logp, whole.records[i].reference_logp)
            << "the network gives the same bits";
      }
    }
  }
}

// A token's dropout mask is named by the token, so how an update is cut into micro-batches cannot change it.
TEST_F(LearnerTest, MicroBatchesDoNotChangeTheDropout) {
  LearnerOptions o = options();
  o.dropout = 0.3;
  o.seed = 3;
  const Outcome whole = train(1, o, 1)[0];
  o.micro_batch_tokens = 1;
  const Outcome pieces = train(1, o, 1)[0];
  ASSERT_EQ(pieces.records.size(), whole.records.size());
  for (std::size_t i = 0; i < whole.records.size(); ++i) {
    EXPECT_EQ(pieces.records[i].learner_logp, whole.records[i].learner_logp) << "sequence " << i;
  }
  EXPECT_LT(distance(whole.gradient, pieces.gradient), 10 * kRounding * norm_of(whole.gradient));
}

TEST_F(LearnerTest, RecomputedLayersGiveTheSameBits) {
  LearnerOptions o = options();
  const Outcome kept = train(1, o)[0];
  o.recompute_layers = true;
  expect_same(kept, train(1, o)[0], "recomputed");
}

TEST_F(LearnerTest, LearnersShareTheWork) {
  const Outcome one = train(1, options())[0];
  EXPECT_EQ(one.updates, 2);
  EXPECT_EQ(one.shard, (std::pair<std::size_t, std::size_t>(0, start_.values.size())));
  for (const int learners : {2, 3, 7}) {  // of seven, one has no group
    const auto all = train(learners, options());
    std::size_t next = 0;
    for (const Outcome& outcome : all) {
      expect_same(outcome, all[0], "every learner holds the same");
      EXPECT_EQ(outcome.shard.first, next) << "shards are dense and in order";
      next = outcome.shard.second;
    }
    EXPECT_EQ(next, start_.values.size());
    expect_near(one, all[0], start_, "learners");
    if (learners < 7) expect_same(all[0], train(learners, options())[0], "repeated");
  }
}

TEST_F(LearnerTest, TheFirstUpdateMovesAgainstTheGradient) {
  LearnerOptions o = options();
  o.adamw.weight_decay = 0;
  const Outcome outcome = train(1, o, 1)[0];
  double product = 0;
  for (std::size_t i = 0; i < outcome.values.size(); ++i) {
    const double step = static_cast<double>(outcome.values[i]) - start_.values[i];
    product += step * outcome.gradient[i];
    EXPECT_LE(std::abs(step), 1.001e-2) << "the first step of AdamW is at most the rate";
  }
  EXPECT_LT(product, 0);
  EXPECT_NEAR(outcome.result.grad_norm, norm_of(outcome.gradient), 1e-5 * outcome.result.grad_norm);
}

// One learner's gradient is not finite: none of them changes anything, and they go on in step.
TEST_F(LearnerTest, AGradientThatIsNotFiniteIsSkippedEverywhere) {
  data_.behaviour[1][0][0] = -std::numeric_limits<float>::infinity();
  data_.groups[1].sequences[0].advantage =
      -1;  // the ratio is infinite, and with a negative advantage never clipped
  for (const Outcome& outcome : train(2, options(), 1)) {
    EXPECT_TRUE(outcome.result.skipped);
    EXPECT_EQ(outcome.updates, 0);
    EXPECT_EQ(outcome.values, start_.values);
    EXPECT_EQ(norm_of(outcome.m), 0);
    EXPECT_EQ(norm_of(outcome.v), 0);
  }
}

TEST_F(LearnerTest, RestoredStateGoesOnAsIfNeverInterrupted) {
  const Outcome straight = train(2, options(), 3)[0];
  const Outcome half = train(2, options(), 1)[0];
  // Moments and values come from two learners and go into two again.
  const auto world = make_thread_world(2, Seconds(60));
  std::vector<std::vector<float>> values(2);
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      const auto model = testing::load(files_, DType::f32);
      std::vector<LearnerGroup> own;
      for (std::size_t g = rank; g < data_.groups.size(); g += 2) own.push_back(data_.groups[g]);
      Learner learner(*model, start_, nullptr, *world[rank], options());
      learner.restore(half.values, half.m, half.v, half.updates);
      for (int u = 0; u < 2; ++u) learner.update(own, 1e-2);
      EXPECT_EQ(learner.updates(), 3);
      values[rank] = learner.adapter().values;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(values[0], straight.values);
  EXPECT_EQ(values[1], straight.values);
}

TEST_F(LearnerTest, DroppedGroupsAndMaskedSequencesLeaveTheLoss) {
  const auto world = make_local();
  const auto update = [&](const std::vector<LearnerGroup>& groups, Loss loss,
                          std::vector<SequenceResult>* records) {
    LearnerOptions o = options();
    o.objective.loss = loss;
    Learner learner(*model_, start_, nullptr, *world, o);
    const UpdateResult result = learner.update(groups, 1e-3, records);
    return std::pair(result, learner.collect_gradient());
  };
  for (const Loss loss : {Loss::grpo, Loss::dapo}) {
    std::vector<LearnerGroup> dropped = data_.groups;
    dropped[1].dropped = true;
    std::vector<LearnerGroup> without = data_.groups;
    without.erase(without.begin() + 1);
    std::vector<SequenceResult> records;
    const auto [result, gradient] = update(dropped, loss, &records);
    const auto [other, expected] = update(without, loss, nullptr);
    EXPECT_EQ(result.loss, other.loss);
    EXPECT_EQ(result.tokens, other.tokens);
    EXPECT_EQ(result.kl, other.kl);
    EXPECT_EQ(gradient, expected);
    // Records stand in the order of the groups, those of the dropped one too.
    std::size_t sequences = 0;
    for (const LearnerGroup& group : data_.groups) sequences += group.sequences.size();
    ASSERT_EQ(records.size(), sequences);
    std::size_t at = 0;
    for (std::size_t g = 0; g < dropped.size(); ++g) {
      for (const LearnerSequence& sequence : dropped[g].sequences) {
        EXPECT_EQ(records[at].learner_logp.size(), sequence.completion.size());
        const double loss_of_tokens = norm_of(records[at++].token_loss);
        EXPECT_EQ(loss_of_tokens == 0, g == 1);
      }
    }
  }
  // A masked sequence has no token, but the mean over sequences still counts it.
  std::vector<LearnerGroup> masked = data_.groups;
  const std::vector<float> zeros(masked[3].sequences[0].completion.size(), 0.0F);
  masked[3].sequences[0].mask = zeros;
  std::vector<LearnerGroup> without = data_.groups;
  without[3].sequences.erase(without[3].sequences.begin());
  EXPECT_EQ(update(masked, Loss::dapo, nullptr).first.loss, update(without, Loss::dapo, nullptr).first.loss);
  double sequences = 0;
  for (const LearnerGroup& group : masked) sequences += static_cast<double>(group.sequences.size());
  EXPECT_NEAR(update(masked, Loss::grpo, nullptr).first.loss,
              update(without, Loss::grpo, nullptr).first.loss * (sequences - 1) / sequences, 1e-12);
}

// Without the KL term the loss is a sum over tokens, each with its own advantage.
TEST_F(LearnerTest, TheGradientIsTheSumOfThoseOfTheTokensParts) {
  const auto world = make_local();
  for (const Loss loss : {Loss::grpo, Loss::dapo}) {
    LearnerOptions o = options();
    o.objective.loss = loss;
    o.objective.beta = 0;
    /// Advantages of the tokens of one half, or of all (-1); other tokens have 0.
    const auto gradient = [&](int half) {
      std::vector<LearnerGroup> groups = data_.groups;
      std::deque<std::vector<float>> advantages;
      for (std::size_t g = 0; g < groups.size(); ++g) {
        for (LearnerSequence& sequence : groups[g].sequences) {
          auto& own = advantages.emplace_back(testing::random_values(sequence.completion.size(), 1, 7 + g));
          for (std::size_t t = 0; t < own.size(); ++t) {
            if (half >= 0 && (t < own.size() / 2) != (half == 0)) own[t] = 0;
          }
          sequence.advantage = 100;  // of no token
          sequence.token_advantages = own;
        }
      }
      Learner learner(*model_, start_, nullptr, *world, o);
      learner.update(groups, 1e-3);
      return learner.collect_gradient();
    };
    const std::vector<float> all = gradient(-1), first = gradient(0), second = gradient(1);
    std::vector<float> sum(all.size());
    for (std::size_t i = 0; i < all.size(); ++i) sum[i] = first[i] + second[i];
    EXPECT_LT(distance(all, sum), 1e-5 * norm_of(all));
    EXPECT_GT(norm_of(first), 0.1 * norm_of(all));
    EXPECT_GT(norm_of(second), 0.1 * norm_of(all));
  }
}

TEST_F(LearnerTest, RecordsSayWhatEachSequenceGave) {
  const Outcome outcome = train(1, options(), 1)[0];
  ASSERT_EQ(outcome.records.size(), 13U);
  std::size_t index = 0;
  for (const auto& group : data_.completions) {
    for (const auto& ids : group) {
      const SequenceResult& record = outcome.records[index++];
      EXPECT_EQ(record.learner_logp.size(), ids.size());
      EXPECT_EQ(record.reference_logp.size(), ids.size());
      EXPECT_EQ(record.token_loss.size(), ids.size());
      EXPECT_NE(record.learner_logp, record.reference_logp)
          << "the reference is the network without the adapter";
    }
  }
  LearnerOptions o = options();
  o.objective.beta = 0;
  EXPECT_TRUE(train(1, o, 1)[0].records[0].reference_logp.empty())
      << "no reference is computed where none counts";
}

// The answer was sampled with a probability of nothing: the ratio is infinite, and on one learner only.
TEST_F(LearnerTest, ALossThatIsNotFiniteNamesItsGroupAndSkipsTheUpdateOnAll) {
  data_.groups[2].name = "bad.png";
  std::vector<float> none(data_.behaviour[2][0].size(), -1e6F);
  data_.groups[2].sequences[0].behaviour_logp = none;
  data_.groups[2].sequences[0].advantage = -1;
  ::testing::internal::CaptureStderr();
  const std::vector<Outcome> outcomes = train(2, options(), 1);
  const std::string told = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(told.find("tokens for bad.png is not finite"), std::string::npos) << told;
  for (const Outcome& outcome : outcomes) {
    EXPECT_TRUE(outcome.result.skipped);
    EXPECT_EQ(outcome.updates, 0);
    EXPECT_EQ(outcome.values, start_.values);
  }
}

}  // namespace
}  // namespace biqa
