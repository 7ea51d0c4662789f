// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

#include "core/random.h"

namespace biqa {
namespace {

constexpr KvLayout kLayout{16, 0};

/// Counts stores and copied pages; nothing else is asked of it.
class Pages final : public Decoder {
 public:
  struct Store final : KvStore {};
  std::unique_ptr<KvStore> make_kv(std::int64_t, std::int64_t) override { return std::make_unique<Store>(); }
  void copy_page(KvStore&, std::int32_t from, std::int32_t to) override { copies.emplace_back(from, to); }
  std::unique_ptr<BatchPlan> plan(const RowBatch&) override { return nullptr; }
  std::shared_ptr<const PackedAdapter> pack_adapter(std::span<const LoraModule>, ConstView) override {
    return nullptr;
  }
  void forward(const BatchPlan&, KvStore&, const PackedAdapter*, View, const ForwardOptions&) override {}
  void backward(const BatchPlan&, KvStore&, const PackedAdapter&, const Tape&, ConstView, View) override {}
  void log_prob(const BatchPlan&, ConstView, std::span<const std::int64_t>, float, std::span<float>,
                std::span<float>, View) override {}
  void spread_picks(const BatchPlan&, View, std::span<const float>, View) override {}
  std::unique_ptr<SampledTokens> sample(const BatchPlan&, ConstView, std::span<const SampleRequest>,
                                        std::span<const std::int64_t>) override {
    return nullptr;
  }
  void logits(ConstView, View) override {}
  std::vector<std::pair<std::int32_t, std::int32_t>> copies;
};

TEST(KvCache, CountsPages) {
  EXPECT_EQ(KvCache::pages_for(0, kLayout), 0);
  EXPECT_EQ(KvCache::pages_for(1, kLayout), 1);
  EXPECT_EQ(KvCache::pages_for(16, kLayout), 1);
  EXPECT_EQ(KvCache::pages_for(17, kLayout), 2);
  EXPECT_EQ(KvCache::pages_for(17, {8, 0}), 3);
}

TEST(KvCache, PlacesTokens) {
  Pages pages;
  KvCache cache(pages, kLayout, 4, 2);
  KvSequence sequence;
  ASSERT_TRUE(cache.extend(sequence, 33));
  const KvWrite write = cache.place(sequence, 18, 7);
  EXPECT_EQ(write.row, 7);
  EXPECT_EQ(write.page, sequence.pages[1]);
  EXPECT_EQ(write.slot, 2);
  EXPECT_EQ(cache.page_start(18), 16);
}

TEST(KvCache, ExtendTakesPagesOnlyWhenNeeded) {
  Pages pages;
  KvCache cache(pages, kLayout, 4, 2);
  KvSequence sequence;
  ASSERT_TRUE(cache.extend(sequence, 16));
  EXPECT_EQ(cache.free_pages(), 3);
  ASSERT_TRUE(cache.extend(sequence, 1));
  EXPECT_EQ(cache.free_pages(), 2);
  ASSERT_TRUE(cache.extend(sequence, 15));
  ASSERT_TRUE(cache.extend(sequence, 0));
  EXPECT_EQ(cache.free_pages(), 2);
  EXPECT_EQ(sequence.length, 32);
  EXPECT_FALSE(cache.extend(sequence, 33));
  EXPECT_EQ(sequence.length, 32) << "a refusal changes nothing";
  EXPECT_EQ(sequence.pages.size(), 2U);
  EXPECT_EQ(cache.free_pages(), 2);
  EXPECT_TRUE(cache.extend(sequence, 32));
  EXPECT_EQ(cache.free_pages(), 0);
  cache.release(sequence);
  EXPECT_EQ(cache.free_pages(), 4);
  EXPECT_EQ(sequence.length, 0);
}

TEST(KvCache, AForkSharesFullPagesAndCopiesTheLast) {
  Pages pages;
  KvCache cache(pages, kLayout, 6, 2);
  KvSequence parent;
  ASSERT_TRUE(cache.extend(parent, 37));
  KvSequence child;
  ASSERT_TRUE(cache.fork(parent, child));
  EXPECT_EQ(cache.free_pages(), 2);
  EXPECT_EQ(child.length, 37);
  EXPECT_EQ(child.pages[0], parent.pages[0]);
  EXPECT_EQ(child.pages[1], parent.pages[1]);
  EXPECT_NE(child.pages[2], parent.pages[2]);
  ASSERT_EQ(pages.copies.size(), 1U);
  EXPECT_EQ(pages.copies[0], std::pair(parent.pages[2], child.pages[2]));
  KvSequence writer;
  ASSERT_TRUE(cache.fork_to_write(parent, writer));
  EXPECT_NE(writer.pages[2], parent.pages[2]);
  EXPECT_EQ(pages.copies.size(), 1U) << "its content is written";
  cache.release(writer);
  cache.release(parent);
  EXPECT_EQ(cache.free_pages(), 3) << "the shared pages are still the child's";
  cache.release(child);
  EXPECT_EQ(cache.free_pages(), 6);
}

TEST(KvCache, ABeginningIsSharedInWholePages) {
  Pages pages;
  KvCache cache(pages, kLayout, 3, 1);
  KvSequence parent;
  ASSERT_TRUE(cache.extend(parent, 37));
  KvSequence beginning;
  cache.share(parent, 32, beginning);
  EXPECT_EQ(beginning.length, 32);
  EXPECT_THAT(beginning.pages, testing::ElementsAre(parent.pages[0], parent.pages[1]));
  EXPECT_TRUE(pages.copies.empty());
  cache.release(parent);
  EXPECT_EQ(cache.free_pages(), 1) << "the whole pages are still in use";
  KvSequence none;
  cache.share(beginning, 0, none);
  EXPECT_TRUE(none.pages.empty());
  cache.release(beginning);
  EXPECT_EQ(cache.free_pages(), 3);
}

TEST(KvCache, AForkWithoutRoomChangesNothing) {
  Pages pages;
  KvCache cache(pages, kLayout, 2, 1);
  KvSequence parent;
  KvSequence child;
  ASSERT_TRUE(cache.extend(parent, 20));
  EXPECT_FALSE(cache.fork(parent, child));
  EXPECT_TRUE(child.pages.empty());
  cache.release(parent);
  EXPECT_EQ(cache.free_pages(), 2) << "the refused fork left no reference";
  ASSERT_TRUE(cache.extend(parent, 32));
  EXPECT_TRUE(cache.fork(parent, child)) << "full pages need no room";
  EXPECT_EQ(child.pages, parent.pages);
}

// Any order of extending, forking and releasing: no page has two writers, and in the end all are free.
TEST(KvCache, RandomUseNeverLosesOrSharesAPage) {
  Pages pages;
  KvCache cache(pages, kLayout, 40, 1);
  std::vector<KvSequence> live;
  const RandomStream stream{5};
  for (std::uint64_t step = 0; step < 4000; ++step) {
    const std::uint64_t word = stream.word(step);
    const auto pick = [&] { return static_cast<std::size_t>(word >> 32) % live.size(); };
    if (live.empty() || word % 4 == 0) {
      KvSequence fresh;
      if (cache.extend(fresh, static_cast<std::int64_t>(word >> 8) % 40 + 1)) live.push_back(fresh);
    } else if (word % 4 == 1) {
      KvSequence child;
      const std::size_t from = pick();
      if (cache.fork(live[from], child)) live.push_back(child);
    } else if (word % 4 == 2) {
      KvSequence& some = live[pick()];
      // A sequence writes behind its length; a shared page must be full.
      (void)cache.extend(some, 3);
    } else {
      const std::size_t index = pick();
      cache.release(live[index]);
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(index));
    }
    std::set<std::int32_t> all;
    std::multiset<std::int32_t> lasts;
    for (const KvSequence& s : live) {
      ASSERT_EQ(static_cast<std::int64_t>(s.pages.size()), KvCache::pages_for(s.length, kLayout));
      all.insert(s.pages.begin(), s.pages.end());
      if (s.length % kLayout.page_tokens != 0) lasts.insert(s.pages.back());
    }
    ASSERT_EQ(static_cast<std::int64_t>(all.size()) + cache.free_pages(), 40);
    for (const std::int32_t page : lasts) {
      std::int64_t holders = 0;
      for (const KvSequence& s : live) holders += std::count(s.pages.begin(), s.pages.end(), page);
      ASSERT_EQ(holders, 1) << "a page that is written to has one owner";
    }
  }
  for (KvSequence& s : live) cache.release(s);
  EXPECT_EQ(cache.free_pages(), 40);
}

TEST(KvCacheDeathTest, ReleasingTwiceIsAMistake) {
  Pages pages;
  KvCache cache(pages, kLayout, 2, 1);
  KvSequence sequence;
  ASSERT_TRUE(cache.extend(sequence, 4));
  KvSequence copy = sequence;
  cache.release(sequence);
  EXPECT_DEATH(cache.release(copy), "released twice");
}

}  // namespace
}  // namespace biqa
