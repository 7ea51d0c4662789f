// SPDX-License-Identifier: Apache-2.0
// The arena, copies between views, and what a view says of its memory.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "tensor/arena.h"
#include "tensor/device_memory.h"

namespace biqa {
namespace {

TEST(Arena, MatricesAreAlignedAndDoNotOverlap) {
  Arena arena("test");
  std::vector<View> views;
  for (const std::int64_t columns : {1, 3, 100, 7, 1000}) {
    views.push_back(arena.take(DType::f32, 2, columns));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(views.back().data()) % 64, 0U);
    EXPECT_TRUE(views.back().dense());
  }
  for (std::size_t i = 0; i < views.size(); ++i) {
    for (float& value : views[i].span<float>()) value = static_cast<float>(i);
  }
  for (std::size_t i = 0; i < views.size(); ++i) {
    for (const float value : views[i].span<float>()) ASSERT_EQ(value, static_cast<float>(i));
  }
}

TEST(Arena, AScopeGivesBackWhatWasTakenInIt) {
  Arena arena("arena test");
  const View stays = arena.take(DType::f32, 4, 4);
  std::vector<const void*> first;
  std::size_t held = 0;
  for (int layer = 0; layer < 5; ++layer) {
    const Arena::Scope scope(arena);
    std::vector<const void*> places;
    for (const std::int64_t columns : {10, 300, 20})
      places.push_back(arena.take(DType::bf16, 8, columns).data());
    {
      const Arena::Scope inner(arena);
      places.push_back(arena.take(DType::f32, 8, 50).data());
    }
    places.push_back(arena.take(DType::f32, 8, 50).data());
    EXPECT_EQ(places[3], places[4]) << "the inner scope's bytes are free again";
    EXPECT_NE(places[0], stays.data());
    if (layer == 0) {
      first = places;
      held = memory_report()["arena test"].now;
    }
    EXPECT_EQ(places, first) << "layer after layer has the same bytes";
  }
  EXPECT_EQ(memory_report()["arena test"].peak, held) << "nothing is allocated after the first layer";
}

TEST(Arena, SmallBlocksMakePlaceForALargerOne) {
  constexpr std::int64_t kMega = 1 << 20;
  Arena arena("arena blocks");
  const View kept = arena.take(DType::u8, 1, kMega);
  std::memset(kept.data(), 7, kMega);
  const auto bytes = [] { return memory_report()["arena blocks"]; };
  {
    const Arena::Scope scope(arena);
    for (int i = 0; i < 4; ++i) arena.take(DType::u8, 1, kMega);
    EXPECT_EQ(bytes().now, 5 * kMega);
  }
  for (const std::int64_t size : {3 * kMega, 4 * kMega, 2 * kMega}) {
    const Arena::Scope scope(arena);
    const View large = arena.take(DType::u8, 1, size);
    std::memset(large.data(), 1, static_cast<std::size_t>(size));
    EXPECT_EQ(bytes().now, 5 * kMega) << size;
  }
  {
    const Arena::Scope outer(arena);
    const Arena::Scope inner(arena);
    arena.take(DType::u8, 1, 6 * kMega);
    EXPECT_EQ(bytes().now, 7 * kMega);
  }
  EXPECT_EQ(bytes().peak, 7 * kMega);
  for (std::int64_t i = 0; i < kMega; ++i) ASSERT_EQ(kept.row<std::uint8_t>(0)[i], 7);
}

TEST(Arena, ASmallerMatrixFitsWhereALargerOneWas) {
  Arena arena("arena sizes");
  {
    const Arena::Scope scope(arena);
    (void)arena.take(DType::f32, 64, 64);
  }
  const std::size_t held = memory_report()["arena sizes"].now;
  const View one = arena.take(DType::f32, 16, 64), two = arena.take(DType::f32, 16, 64);
  EXPECT_NE(one.data(), two.data());
  EXPECT_EQ(memory_report()["arena sizes"].now, held);
}

TEST(DeviceMemory, CopiesBetweenSpacedRows) {
  std::vector<float> from(6 * 10), to(6 * 7, -1);
  std::iota(from.begin(), from.end(), 0.0F);
  const ConstView source = ConstView(from.data(), 6, 10).row_range(1, 4).column_range(2, 5);
  const View target = View(to.data(), 6, 7).row_range(2, 4).column_range(1, 5);
  host_memory().copy(source, target);
  for (std::int64_t r = 0; r < 6; ++r) {
    for (std::int64_t c = 0; c < 7; ++c) {
      const bool inside = r >= 2 && c >= 1 && c < 6;
      const float expected = inside ? static_cast<float>((r - 1) * 10 + c + 1) : -1.0F;
      EXPECT_EQ(to[static_cast<std::size_t>(r * 7 + c)], expected) << r << ", " << c;
    }
  }
  host_memory().zero(target.row_range(0, 1));
  EXPECT_EQ(to[2 * 7], -1);
  EXPECT_EQ(to[2 * 7 + 1], 0);
  EXPECT_EQ(to[2 * 7 + 6], -1);
  EXPECT_EQ(to[3 * 7 + 1], 22);
}

TEST(DeviceMemoryDeathTest, ShapesAndTypesMustAgree) {
  Tensor a(DType::f32, 2, 3, "test"), b(DType::f32, 3, 2, "test"), c(DType::bf16, 2, 3, "test");
  EXPECT_DEATH(host_memory().copy(a.view(), b.view()), "Check failed");
  EXPECT_DEATH(host_memory().copy(a.view(), c.view()), "Check failed");
}

TEST(MemoryKind, ABufferRefusesTheHostToo) {
  const int owner = 0;
  const Buffer buffer =
      Buffer::borrow(const_cast<int*>(&owner), 4, "far away",
                     std::shared_ptr<const void>(&owner, [](const void*) {}), false, Memory::device);
  EXPECT_EQ(buffer.address(), &owner);
  EXPECT_DEATH((void)buffer.data(), "the host touched device memory: far away");
}

TEST(MemoryKind, TravelsWithEveryView) {
  const std::array<float, 4 * 6> owner{};
  Tensor device(
      DType::f32, 4, 6,
      Buffer::borrow(const_cast<float*>(owner.data()), sizeof owner, "far away",
                     std::shared_ptr<const void>(owner.data(), [](const void*) {}), false, Memory::device));
  EXPECT_EQ(device.memory(), Memory::device);
  EXPECT_EQ(device.view().row_range(1, 2).column_range(2, 3).memory(), Memory::device);
  const ConstView read = device.view();
  EXPECT_EQ(read.memory(), Memory::device);
  EXPECT_DEATH((void)read.row_range(1, 1).row<const float>(0), "the host touched device memory: far away");
  EXPECT_DEATH((void)device.span<float>(), "the host touched device memory: far away");
  EXPECT_DEATH((void)read.column_range(2, 3).data(), "the host touched device memory: far away");
  EXPECT_EQ(read.address(), owner.data());
  EXPECT_EQ(read.row_range(1, 1).address<float>(), &owner[6]);
  EXPECT_DEATH((void)device.clone(), "far away");
  EXPECT_DEATH(device.zero(), "far away");
  EXPECT_EQ(Tensor(DType::f32, 1, 1, "near").memory(), Memory::host);
}

}  // namespace
}  // namespace biqa
