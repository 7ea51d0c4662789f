// SPDX-License-Identifier: Apache-2.0
// Copies through page-locked memory, with streams that work only when somebody waits.
#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <vector>

#include "cuda_emulation/emulator.h"
#include "support/compare.h"
#include "tensor/cuda/memory.h"

namespace biqa::cuda {
namespace {

class CudaPinned : public ::testing::Test {
 protected:
  void SetUp() override { emulation::set_streams(emulation::Streams::late); }
  void TearDown() override {
    memory_.wait();
    emulation::set_streams(emulation::Streams::at_once);
  }
  std::shared_ptr<const Stream> stream_ = std::make_shared<const Stream>();
  CudaMemory memory_{stream_};
};

TEST_F(CudaPinned, AnEventIsReachedWhenItsWorkIsDone) {
  Event event;
  EXPECT_TRUE(event.reached()) << "nothing was recorded";
  Tensor there = memory_.allocate(DType::f32, 1, 4, "test");
  memory_.zero(there.view());
  event.record(*stream_);
  EXPECT_FALSE(event.reached());
  memory_.wait(event);
  EXPECT_TRUE(event.reached());
}

TEST_F(CudaPinned, ABufferIsUsedAgainOnlyAfterTheDevice) {
  PinnedPool pool;
  auto first = pool.take(100);
  const std::byte* const address = first->data();
  EXPECT_GE(first->bytes(), 100U);
  EXPECT_NE(pool.take(100)->data(), address) << "the host still holds it";
  Tensor there = memory_.allocate(DType::u8, 1, 100, "test");
  memory_.copy(there.view(), View(first->data(), DType::u8, 1, 100, 100));
  first->last_use.record(*stream_);
  first.reset();
  const auto other = pool.take(100);
  EXPECT_NE(other->data(), address) << "the device still writes it";
  memory_.wait();
  EXPECT_EQ(pool.take(100)->data(), address);
  EXPECT_NE(pool.take(std::size_t{1} << 20U)->data(), address) << "too small";
}

TEST_F(CudaPinned, ALargePoolWaitsInsteadOfGrowing) {
  PinnedPool pool;
  constexpr std::size_t kBytes = std::size_t{64} << 20U;
  constexpr std::int64_t kCopies = 3;
  Tensor there = memory_.allocate(DType::u8, kCopies, 1, "test");
  std::set<const std::byte*> addresses;
  for (std::int64_t i = 0; i < kCopies; ++i) {
    const auto buffer = pool.take(kBytes);
    addresses.insert(buffer->data());
    buffer->data()[0] = static_cast<std::byte>(i);
    for (int work = 0; work < 8; ++work) memory_.zero(there.view().row_range(i, 1));  // before the copy
    BIQA_CUDA_CHECK(cudaMemcpyAsync(there.view().row_range(i, 1).address(), buffer->data(), 1,
                                    cudaMemcpyHostToDevice, stream_->get()));
    buffer->last_use.record(*stream_);
  }
  EXPECT_EQ(addresses.size(), 1U);
  const Tensor back = copied_to_host(memory_, there.view(), "test");
  for (std::int64_t i = 0; i < kCopies; ++i)
    EXPECT_EQ(back.row<std::uint8_t>(i)[0], i) << "written before the device had read it";
}

// The source may change as soon as the call has returned. 40 MiB are three chunks.
TEST_F(CudaPinned, ACopyReadsTheHostBeforeItReturns) {
  const auto copies = [this](std::int64_t rows, std::int64_t columns, std::int64_t spare) {
    Tensor host(DType::i32, rows, columns + spare, "test");
    std::iota(host.span<std::int32_t>().begin(), host.span<std::int32_t>().end(), 0);
    const Tensor expected = copied_to(host_memory(), host.view().column_range(0, columns), "test");
    Tensor there = memory_.allocate(DType::i32, rows, columns, "test");
    memory_.copy(host.view().column_range(0, columns), there.view());
    host.zero();
    const Tensor back = copied_to_host(memory_, there.view(), "test");
    EXPECT_TRUE(testing::same_bits(back.view(), expected.view())) << rows << "x" << columns << " + " << spare;
  };
  copies(1, 10 << 20, 0);
  copies(10, 1 << 20, 0);
  copies(3, 7, 0);
  copies(5, 3, 2);
}

}  // namespace
}  // namespace biqa::cuda
