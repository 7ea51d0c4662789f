// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "core/random.h"

namespace biqa {
namespace {

ModelConfig config() {
  ModelConfig c;
  c.text.heads = 4;
  c.text.kv_heads = 2;
  c.text.head_dim = 16;
  c.text.layers = 2;
  return c;
}

TEST(KvCache, CountsPagesAndBytes) {
  EXPECT_EQ(KvCache::pages_for(0), 0);
  EXPECT_EQ(KvCache::pages_for(1), 1);
  EXPECT_EQ(KvCache::pages_for(16), 1);
  EXPECT_EQ(KvCache::pages_for(17), 2);
  EXPECT_EQ(KvCache::page_bytes(config(), DType::bf16, 2),
            2 * 2 * (16 * 16 * 2) * 2);  // layers, heads, keys and values, bytes
}

TEST(KvCache, ExtendTakesPagesOnlyWhenNeeded) {
  KvCache cache(config(), DType::f32, 4, 2);
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
  const auto ops = make_cpu_ops(DType::f32, 1);
  KvCache cache(config(), DType::f32, 6, 2);
  KvSequence parent;
  ASSERT_TRUE(cache.extend(parent, 37));
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    const KvPages pages = cache.layer(layer);
    for (std::size_t p = 0; p < 3; ++p) {
      float* page = static_cast<float*>(pages.data) + parent.pages[p] * pages.page_elements;
      std::fill_n(page, pages.page_elements, static_cast<float>(10 * layer) + static_cast<float>(p));
    }
  }
  KvSequence child;
  ASSERT_TRUE(cache.fork(parent, child, ops.get()));
  EXPECT_EQ(cache.free_pages(), 2);
  EXPECT_EQ(child.length, 37);
  EXPECT_EQ(child.pages[0], parent.pages[0]);
  EXPECT_EQ(child.pages[1], parent.pages[1]);
  EXPECT_NE(child.pages[2], parent.pages[2]);
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    const KvPages pages = cache.layer(layer);
    const float* copy = static_cast<const float*>(pages.data) + child.pages[2] * pages.page_elements;
    EXPECT_TRUE(std::all_of(copy, copy + pages.page_elements,
                            [&](float v) { return v == static_cast<float>(10 * layer) + 2; }));
  }
  cache.release(parent);
  EXPECT_EQ(cache.free_pages(), 3) << "the shared pages are still the child's";
  cache.release(child);
  EXPECT_EQ(cache.free_pages(), 6);
}

TEST(KvCache, AForkWithoutRoomChangesNothing) {
  KvCache cache(config(), DType::f32, 2, 1);
  KvSequence parent;
  KvSequence child;
  ASSERT_TRUE(cache.extend(parent, 20));
  EXPECT_FALSE(cache.fork(parent, child, nullptr));
  EXPECT_TRUE(child.pages.empty());
  cache.release(parent);
  EXPECT_EQ(cache.free_pages(), 2) << "the refused fork left no reference";
  ASSERT_TRUE(cache.extend(parent, 32));
  EXPECT_TRUE(cache.fork(parent, child, nullptr)) << "full pages need no room";
  EXPECT_EQ(child.pages, parent.pages);
}

// Any order of extending, forking and releasing: no page has two writers, and in the end all are free.
TEST(KvCache, RandomUseNeverLosesOrSharesAPage) {
  KvCache cache(config(), DType::f32, 40, 1);
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
      if (cache.fork(live[from], child, nullptr)) live.push_back(child);
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
      ASSERT_EQ(static_cast<std::int64_t>(s.pages.size()), KvCache::pages_for(s.length));
      all.insert(s.pages.begin(), s.pages.end());
      if (s.length % kPageTokens != 0) lasts.insert(s.pages.back());
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
  KvCache cache(config(), DType::f32, 2, 1);
  KvSequence sequence;
  ASSERT_TRUE(cache.extend(sequence, 4));
  KvSequence copy = sequence;
  cache.release(sequence);
  EXPECT_DEATH(cache.release(copy), "released twice");
}

}  // namespace
}  // namespace biqa
