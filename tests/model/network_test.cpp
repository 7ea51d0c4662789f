// SPDX-License-Identifier: Apache-2.0
// The decoder: one token at a time or all at once, alone or in company, it is the same network to the bit.
#include <gtest/gtest.h>

#include <array>

#include "support/compare.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

using testing::random_adapter;
using testing::same_bits;
using testing::TinyModel;

struct Setting {
  DType type;
  bool tied;
};
std::ostream& operator<<(std::ostream& out, const Setting& s) {
  return out << name_of(s.type) << (s.tied ? " tied" : " untied");
}

class Network : public ::testing::TestWithParam<Setting> {
 protected:
  Network() : files_(GetParam().tied), model_(testing::load(files_, GetParam().type, 2)) {
    prompts_.push_back(testing::image_prompt(model_->config(), 2, 3, 30, 1, features_));
    for (const std::int64_t length : {1, 16, 17}) {
      prompts_.push_back(testing::text_prompt(model_->config(), length, static_cast<std::uint64_t>(length)));
    }
    adapter_ = pack_adapter(model_->config(), random_adapter(model_->config(), 2), model_->ops());
  }

  /// Adds rows [first, first + count) of a prompt to a batch; all of them are outputs.
  static void add_rows(RowBatch& batch, const PromptInput& prompt, const KvSequence& cache,
                       std::int64_t first, std::int64_t count) {
    const std::int64_t first_row = batch.rows();
    for (std::int64_t i = first; i < first + count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      batch.writes.push_back({static_cast<std::int32_t>(batch.rows()), cache.pages[at / kPageTokens],
                              static_cast<std::int32_t>(i % kPageTokens)});
      batch.append(prompt.ids[at], prompt.positions[at], prompt.features[at]);
    }
    batch.sequences.push_back({first_row, count, first, count, cache.pages.data()});
  }
  static std::int64_t length_of(const PromptInput& prompt) {
    return static_cast<std::int64_t>(prompt.ids.size());
  }
  KvCache make_cache() const { return {model_->config(), GetParam().type, 32, model_->config().text.layers}; }
  Tensor run(const RowBatch& batch, KvCache& cache, const PackedAdapter* adapter) const {
    Tensor hidden(GetParam().type, batch.outputs(), model_->config().text.hidden, "test");
    model_->forward(batch, cache, adapter, hidden.view());
    return hidden;
  }
  /// Hidden states of a whole prompt in one pass.
  Tensor whole(const PromptInput& prompt, const PackedAdapter* adapter) const {
    KvCache cache = make_cache();
    KvSequence sequence;
    CHECK(cache.extend(sequence, length_of(prompt)));
    RowBatch batch;
    add_rows(batch, prompt, sequence, 0, length_of(prompt));
    return run(batch, cache, adapter);
  }

  TinyModel files_;
  std::unique_ptr<QwenVl> model_;
  std::vector<float> features_;
  std::vector<PromptInput> prompts_;
  std::shared_ptr<const PackedAdapter> adapter_;
};
INSTANTIATE_TEST_SUITE_P(Settings, Network,
                         ::testing::Values(Setting{DType::f32, true}, Setting{DType::f32, false},
                                           Setting{DType::bf16, true}, Setting{DType::bf16, false}));

TEST_P(Network, TokenByTokenIsOnePackedPassToTheBit) {
  for (const PackedAdapter* adapter : {static_cast<const PackedAdapter*>(nullptr), adapter_.get()}) {
    KvCache cache = make_cache();
    std::vector<KvSequence> sequences(prompts_.size());
    std::vector<Tensor> expected;
    for (const PromptInput& prompt : prompts_) expected.push_back(whole(prompt, adapter));
    // All sequences advance together, each by its own step, until the longest has ended.
    const std::array<std::int64_t, 4> steps{1, 1, 3, 5};
    std::vector<std::int64_t> done(prompts_.size(), 0);
    for (bool more = true; more;) {
      more = false;
      RowBatch batch;
      std::vector<std::pair<std::size_t, std::int64_t>> parts;
      for (std::size_t s = 0; s < prompts_.size(); ++s) {
        const std::int64_t count = std::min(steps[s], length_of(prompts_[s]) - done[s]);
        if (count == 0) continue;
        ASSERT_TRUE(cache.extend(sequences[s], count));
        parts.emplace_back(s, count);
        more = true;
      }
      if (!more) break;
      for (const auto& [s, count] : parts) add_rows(batch, prompts_[s], sequences[s], done[s], count);
      const Tensor hidden = run(batch, cache, adapter);
      std::int64_t row = 0;
      for (const auto& [s, count] : parts) {
        ASSERT_TRUE(
            same_bits(hidden.view().row_range(row, count), expected[s].view().row_range(done[s], count)))
            << "sequence " << s << " from " << done[s];
        row += count;
        done[s] += count;
      }
    }
  }
}

TEST_P(Network, OnlyTheLastRowsGiveTheSameBits) {
  const PromptInput& prompt = prompts_[0];
  const Tensor all = whole(prompt, adapter_.get());
  KvCache cache = make_cache();
  KvSequence sequence;
  ASSERT_TRUE(cache.extend(sequence, length_of(prompt)));
  RowBatch batch;
  add_rows(batch, prompt, sequence, 0, length_of(prompt));
  batch.sequences[0].outputs = 5;
  EXPECT_TRUE(same_bits(run(batch, cache, adapter_.get()).view(), all.view().row_range(all.rows() - 5, 5)));
}

TEST_P(Network, AForkGoesOnAsItsParentWould) {
  const PromptInput& prompt = prompts_[0];
  const std::int64_t length = length_of(prompt);
  const std::int64_t shared = 21;  // one full page and five tokens of the next
  const Tensor expected = whole(prompt, nullptr);
  KvCache cache = make_cache();
  KvSequence parent;
  ASSERT_TRUE(cache.extend(parent, shared));
  RowBatch first;
  add_rows(first, prompt, parent, 0, shared);
  (void)run(first, cache, nullptr);
  std::array<KvSequence, 2> children;
  for (KvSequence& child : children) {
    ASSERT_TRUE(cache.fork(parent, child, &model_->ops()));
    ASSERT_TRUE(cache.extend(child, length - shared));
  }
  cache.release(parent);
  RowBatch rest;
  for (const KvSequence& child : children) add_rows(rest, prompt, child, shared, length - shared);
  const Tensor hidden = run(rest, cache, nullptr);
  for (std::int64_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(same_bits(hidden.view().row_range(i * (length - shared), length - shared),
                          expected.view().row_range(shared, length - shared)));
  }
}

TEST_P(Network, ThreadsChangeNothing) {
  const Tensor two = whole(prompts_[0], adapter_.get());
  const auto single = testing::load(files_, GetParam().type, 1);
  KvCache cache = make_cache();
  KvSequence sequence;
  ASSERT_TRUE(cache.extend(sequence, length_of(prompts_[0])));
  RowBatch batch;
  add_rows(batch, prompts_[0], sequence, 0, length_of(prompts_[0]));
  Tensor one(GetParam().type, batch.outputs(), two.columns(), "test");
  single->forward(batch, cache, adapter_.get(), one.view());
  EXPECT_TRUE(same_bits(one.view(), two.view()));
}

// The reference policy is the network without an adapter; training starts from one whose B is zero.
TEST_P(Network, AFreshAdapterIsNoAdapter) {
  const auto layout = std::make_shared<LoraLayout>(model_->config(), LoraSpec{.rank = 4, .alpha = 8});
  const auto fresh = pack_adapter(model_->config(), initial_lora(layout, 3), model_->ops());
  const Tensor reference = whole(prompts_[0], nullptr);
  EXPECT_TRUE(same_bits(whole(prompts_[0], fresh.get()).view(), reference.view()));
  EXPECT_FALSE(same_bits(whole(prompts_[0], adapter_.get()).view(), reference.view()));
}

TEST_P(Network, PicturesAndTheirPositionsCount) {
  const Tensor before = whole(prompts_[0], nullptr);
  features_[5] += 0.5F;
  EXPECT_FALSE(same_bits(whole(prompts_[0], nullptr).view(), before.view()));
  features_[5] -= 0.5F;
  std::swap(prompts_[0].positions[3], prompts_[0].positions[4]);
  const Tensor after = whole(prompts_[0], nullptr);
  EXPECT_FALSE(same_bits(after.view().row_range(3, 1), before.view().row_range(3, 1)));
  EXPECT_TRUE(same_bits(after.view().row_range(0, 3), before.view().row_range(0, 3)))
      << "earlier rows do not see later ones";
}

}  // namespace
}  // namespace biqa
