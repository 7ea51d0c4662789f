// SPDX-License-Identifier: Apache-2.0
// The CPU's sampler allocates nothing for a token: its working memory is that of its threads.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "core/random.h"
#include "ops/cpu/cpu_ops.h"
#include "support/compare.h"

namespace {
std::atomic<std::int64_t> allocations = 0;

void* counted(std::size_t bytes) noexcept {
  ++allocations;
  return std::malloc(bytes);
}
}  // namespace

// All forms that a vector or an algorithm may use: a sanitizer's own forms must not free what these return. Not inline, or
// GCC warns that free() releases memory of another operator new.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  void* memory = counted(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return counted(bytes);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}

namespace biqa {
namespace {

// A vocabulary so large that a Buffer for a row is counted too: Buffer notes its large blocks in a map.
constexpr std::int64_t kRows = 32, kHidden = 16, kVocabulary = 20011;

struct Sampler {
  /// Allocations of a second call with these requests: the first one makes what is kept.
  std::int64_t allocations_of(const std::vector<SampleRequest>& requests) {
    std::vector<SampledToken> tokens(requests.size());
    const ConstView rows = ConstView(hidden.view()).row_range(0, static_cast<std::int64_t>(requests.size()));
    std::int64_t before = 0;
    for (int call = 0; call < 2; ++call) {
      Arena arena("test");
      before = allocations;
      ops->sample(rows, *head, requests, {}, tokens, arena);
    }
    return allocations - before;
  }

  std::unique_ptr<CpuOps> ops = make_cpu_ops(DType::f32, 1);
  Tensor hidden = testing::random_tensor(DType::f32, kRows, kHidden, 2, 1);
  Tensor weight = testing::random_tensor(DType::f32, kVocabulary, kHidden, 1, 2);
  std::unique_ptr<FrozenLinear> head = ops->pack(weight.view(), {}, false);
};

std::vector<SampleRequest> requests_like(SampleRequest request) {
  const RandomStream draws{7};
  std::vector<SampleRequest> all(kRows, request);
  for (std::uint64_t i = 0; i < all.size(); ++i) all[i].uniform = draws.uniform(i);
  return all;
}

TEST(SamplingMemory, NoTokenAllocates) {
  Sampler sampler;
  // What is left belongs to the call: the logits' product and the arena. It is less than one allocation per token.
  const std::int64_t per_call = sampler.allocations_of(requests_like({1.0F, 0, 1.0F, true}));
  EXPECT_LT(per_call, kRows);
  EXPECT_EQ(sampler.allocations_of(requests_like({0.7F})), per_call) << "the whole distribution";
  EXPECT_EQ(sampler.allocations_of(requests_like({0.7F, 50})), per_call) << "top-k";
  EXPECT_EQ(sampler.allocations_of(requests_like({0.7F, 0, 0.9F})), per_call) << "top-p";
  EXPECT_EQ(sampler.allocations_of(requests_like({0.7F, 50, 0.9F})), per_call) << "both";
}

// The counter must see what the test is about.
TEST(SamplingMemory, TheCounterSeesAVector) {
  const std::int64_t before = allocations;
  const std::vector<double> values(100);
  EXPECT_EQ(allocations - before, 1) << values.size();
}

}  // namespace
}  // namespace biqa
