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

class Network : public ::testing::TestWithParam<testing::ModelSetting> {
 protected:
  Network() : files_(GetParam().tied), model_(testing::load(files_, GetParam().type, 2)) {
    prompts_.push_back(testing::image_prompt(*model_, 2, 3, 30, 1, features_));
    for (const std::int64_t length : {1, 16, 17}) {
      prompts_.push_back(testing::text_prompt(model_->config(), length, static_cast<std::uint64_t>(length)));
    }
    adapter_ = pack_adapter(*model_, random_adapter(model_->config(), 2));
  }

  KvCache make_cache() const { return testing::rollout_cache(*model_, 32); }
  Tensor run(const BatchBuilder& builder, KvCache& cache, const PackedAdapter* adapter) const {
    return testing::hidden_of(*model_, builder.batch(), cache, adapter);
  }
  /// Hidden states of a whole prompt in one pass.
  Tensor whole(const PromptInput& prompt, const PackedAdapter* adapter) const {
    return testing::hidden_of(*model_, prompt, adapter);
  }

  TinyModel files_;
  std::unique_ptr<QwenVl> model_;
  /// Adds to one value of the picture's features.
  void change_feature(float change) {
    DeviceMemory& memory = model_->ops().memory();
    Tensor values = copied_to_host(memory, features_.view(), "test");
    values.span<float>()[5] += change;
    memory.copy(values.view(), features_.view());
    memory.wait();
  }
  Tensor features_;
  std::vector<PromptInput> prompts_;
  std::shared_ptr<const PackedAdapter> adapter_;
};
INSTANTIATE_TEST_SUITE_P(Settings, Network, ::testing::ValuesIn(testing::kModelSettings));

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
      BatchBuilder batch(cache);
      std::vector<std::pair<std::size_t, std::int64_t>> parts;
      for (std::size_t s = 0; s < prompts_.size(); ++s) {
        const std::int64_t count = std::min(steps[s], prompts_[s].tokens() - done[s]);
        if (count == 0) continue;
        ASSERT_TRUE(cache.extend(sequences[s], count));
        parts.emplace_back(s, count);
        more = true;
      }
      if (!more) break;
      for (const auto& [s, count] : parts) batch.add_prompt(prompts_[s], done[s], count, sequences[s], count);
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
  ASSERT_TRUE(cache.extend(sequence, prompt.tokens()));
  BatchBuilder batch(cache);
  batch.add_prompt(prompt, sequence, 5);
  EXPECT_TRUE(same_bits(run(batch, cache, adapter_.get()).view(), all.view().row_range(all.rows() - 5, 5)));
}

TEST_P(Network, AForkGoesOnAsItsParentWould) {
  const PromptInput& prompt = prompts_[0];
  const std::int64_t length = prompt.tokens();
  const std::int64_t shared = 21;  // one full page and five tokens of the next
  const Tensor expected = whole(prompt, nullptr);
  KvCache cache = make_cache();
  KvSequence parent;
  ASSERT_TRUE(cache.extend(parent, shared));
  BatchBuilder first(cache);
  first.add_prompt(prompt, 0, shared, parent, shared);
  (void)run(first, cache, nullptr);
  std::array<KvSequence, 2> children;
  for (KvSequence& child : children) {
    ASSERT_TRUE(cache.fork(parent, child));
    ASSERT_TRUE(cache.extend(child, length - shared));
  }
  cache.release(parent);
  BatchBuilder rest(cache);
  for (const KvSequence& child : children)
    rest.add_prompt(prompt, shared, length - shared, child, length - shared);
  const Tensor hidden = run(rest, cache, nullptr);
  for (std::int64_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(same_bits(hidden.view().row_range(i * (length - shared), length - shared),
                          expected.view().row_range(shared, length - shared)));
  }
}

TEST_P(Network, ThreadsChangeNothing) {
  const Tensor two = whole(prompts_[0], adapter_.get());
  const auto single = testing::load(files_, GetParam().type, 1);
  const auto adapter = pack_adapter(*single, random_adapter(single->config(), 2));
  const Tensor one = testing::hidden_of(*single, prompts_[0], adapter.get());
  EXPECT_TRUE(same_bits(one.view(), two.view()));
}

// The reference policy is the network without an adapter; training starts from one whose B is zero.
TEST_P(Network, AFreshAdapterIsNoAdapter) {
  const auto layout = std::make_shared<LoraLayout>(model_->config(), LoraSpec{.rank = 4, .alpha = 8});
  const auto fresh = pack_adapter(*model_, initial_lora(layout, 3));
  const Tensor reference = whole(prompts_[0], nullptr);
  EXPECT_TRUE(same_bits(whole(prompts_[0], fresh.get()).view(), reference.view()));
  EXPECT_FALSE(same_bits(whole(prompts_[0], adapter_.get()).view(), reference.view()));
}

TEST_P(Network, PicturesAndTheirPositionsCount) {
  const Tensor before = whole(prompts_[0], nullptr);
  change_feature(0.5F);
  EXPECT_FALSE(same_bits(whole(prompts_[0], nullptr).view(), before.view()));
  change_feature(-0.5F);
  std::swap(prompts_[0].positions[3], prompts_[0].positions[4]);
  const Tensor after = whole(prompts_[0], nullptr);
  EXPECT_FALSE(same_bits(after.view().row_range(3, 1), before.view().row_range(3, 1)));
  EXPECT_TRUE(same_bits(after.view().row_range(0, 3), before.view().row_range(0, 3)))
      << "earlier rows do not see later ones";
}

}  // namespace
}  // namespace biqa
