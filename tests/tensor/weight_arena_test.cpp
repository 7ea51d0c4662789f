// SPDX-License-Identifier: Apache-2.0
// Memory for weights that processes share: the same bytes everywhere, written by one, refused where it does not fit.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "tensor/weight_arena.h"

namespace biqa {
namespace {

using ::testing::HasSubstr;

struct Wanted {
  std::string name;
  WeightPart part;
  std::size_t bytes;
  std::uint64_t fingerprint;
};
const std::vector<Wanted>& wanted() {
  static const std::vector<Wanted> blocks{{"a", WeightPart::forward, 5, 1},
                                          {"a.back", WeightPart::backward, 4097, 2},
                                          {"b", WeightPart::forward, 100000, 3},
                                          {"b.back", WeightPart::backward, 64, 4}};
  return blocks;
}
void plan(WeightArena& arena, const std::vector<Wanted>& blocks = wanted()) {
  for (const Wanted& w : blocks) {
    const Buffer block = arena.take(w.name, w.part, w.bytes, w.fingerprint);
    EXPECT_EQ(block.data(), nullptr);
    EXPECT_EQ(block.bytes(), w.bytes);
  }
}
void fill(WeightArena& arena) {
  plan(arena);
  arena.create();
  ASSERT_TRUE(arena.filling());
  for (const Wanted& w : wanted()) {
    Buffer block = arena.take(w.name, w.part, w.bytes, w.fingerprint);
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(block.data()) % 64, 0U);
    std::memset(block.data(), static_cast<int>(w.fingerprint), block.bytes());
  }
}
bool holds(WeightArena& arena, WeightPart part) {
  return std::all_of(wanted().begin(), wanted().end(), [&](const Wanted& w) {
    if (w.part != part) return true;
    const Buffer block = arena.take(w.name, w.part, w.bytes, w.fingerprint);
    const auto* bytes = static_cast<const unsigned char*>(block.data());
    return std::all_of(bytes, bytes + block.bytes(),
                       [&](unsigned char byte) { return byte == w.fingerprint; });
  });
}

TEST(WeightArena, AnotherMappingAndAnotherProcessSeeTheSameBytes) {
  WeightArena filled;
  fill(filled);
  filled.seal();
  EXPECT_TRUE(filled.filled());
  EXPECT_TRUE(holds(filled, WeightPart::forward));
  WeightArena here;
  plan(here);
  here.attach(filled.handle());
  EXPECT_TRUE(here.filled());
  EXPECT_TRUE(holds(here, WeightPart::forward));
  EXPECT_TRUE(holds(here, WeightPart::backward));

  const pid_t child = fork();
  if (child == 0) {
    WeightArena there;
    plan(there);
    there.attach(filled.handle());
    _exit(holds(there, WeightPart::forward) && holds(there, WeightPart::backward) ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(WeightArena, NobodyWritesAfterTheSeal) {
  WeightArena filled;
  fill(filled);
  Buffer early = filled.take("b", WeightPart::forward, 100000, 3);
  filled.seal();
  WeightArena attached;
  plan(attached);
  attached.attach(filled.handle());
  Buffer late = attached.take("b", WeightPart::forward, 100000, 3);
  EXPECT_NE(early.data(), late.data());
  EXPECT_DEATH(std::memset(early.data(), 9, 1), "");
  EXPECT_DEATH(std::memset(late.data(), 9, 1), "");
  // Neither on purpose.
  const std::string path = fmt::format("/proc/self/fd/{}", filled.handle().descriptor);
  const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor >= 0) {
    EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0), MAP_FAILED);
    EXPECT_NE(ftruncate(descriptor, 0), 0);
    close(descriptor);
  }
}

TEST(WeightArena, BlocksOutliveTheArenaAndItsDescriptor) {
  Buffer from_filled, from_attached;
  const std::size_t before = memory_total().now;
  {
    WeightArena filled;
    fill(filled);
    filled.seal();
    WeightArena attached;
    plan(attached);
    attached.attach(filled.handle());
    from_filled = filled.take("b", WeightPart::forward, 100000, 3);
    EXPECT_EQ(memory_total().now, before + 100000) << "counted where it was made";
    from_attached = attached.take("b", WeightPart::forward, 100000, 3);
    EXPECT_EQ(memory_total().now, before + 100000) << "and only there";
  }
  EXPECT_EQ(std::memcmp(from_filled.data(), from_attached.data(), 100000), 0);
  EXPECT_EQ(static_cast<const unsigned char*>(from_attached.data())[99999], 3);
  from_filled = Buffer();
  EXPECT_EQ(std::exchange(from_attached, Buffer()).bytes(), 100000U);
  EXPECT_EQ(memory_total().now, before);
}

TEST(WeightArena, PartsGoToAnArenaWithoutThatOtherPart) {
  WeightArena filled;
  fill(filled);
  WeightArena other;  // plans the forward alone
  plan(other, {wanted()[0], wanted()[2]});
  other.create();
  EXPECT_EQ(filled.digest(WeightPart::forward), other.digest(WeightPart::forward));
  EXPECT_NE(filled.digest(WeightPart::backward), 0U);
  EXPECT_EQ(other.digest(WeightPart::backward), 0U);
  const auto from = filled.contents(WeightPart::forward);
  const auto to = other.contents(WeightPart::forward);
  ASSERT_EQ(from.size(), to.size());
  std::copy(from.begin(), from.end(), to.begin());
  EXPECT_TRUE(other.contents(WeightPart::backward).empty());
  other.seal();
  EXPECT_TRUE(holds(other, WeightPart::forward));
}

TEST(WeightArena, AnotherLayoutIsRefusedByTheNameOfTheBlock) {
  WeightArena filled;
  fill(filled);
  filled.seal();
  const auto refusal = [&](std::size_t index, const Wanted& instead) {
    std::vector<Wanted> blocks = wanted();
    blocks[index] = instead;
    WeightArena attached;
    plan(attached, blocks);
    EXPECT_NE(attached.digest(instead.part), filled.digest(instead.part));
    try {
      attached.attach(filled.handle());
    } catch (const CannotShare& error) {
      return std::string("no private copy helps: ") + error.what();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(refusal(2, {"b", WeightPart::forward, 100000, 5}),
              HasSubstr(": b has another layout there; start all"));
  EXPECT_THAT(refusal(2, {"b", WeightPart::forward, 100001, 3}),
              HasSubstr(": b has 100000 bytes there and 100001 here;"));
  EXPECT_THAT(refusal(1, {"c", WeightPart::backward, 4097, 2}),
              HasSubstr("another block is where c must be;"));
  EXPECT_THAT(refusal(1, {"a.back", WeightPart::forward, 4097, 2}),
              HasSubstr(": a.back has another offset there; start all"));
  WeightArena shorter;
  plan(shorter, {wanted().begin(), wanted().begin() + 3});
  EXPECT_THROW(shorter.attach(filled.handle()), Error);
}

TEST(WeightArena, WhatCannotBeReachedIsToldApart) {
  WeightArena filled;
  fill(filled);
  filled.seal();
  const auto attach = [&](ArenaHandle handle) {
    WeightArena attached;
    plan(attached);
    attached.attach(handle);
  };
  ArenaHandle handle = filled.handle();
  EXPECT_NO_THROW(attach(handle));
  EXPECT_THROW(attach({handle.process, 1 << 20, handle.key}), CannotShare);
  EXPECT_THROW(attach({handle.process, handle.descriptor, handle.key + 1}), CannotShare);
  const int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  EXPECT_THROW(attach({handle.process, zero, handle.key}), CannotShare);
  close(zero);
}

TEST(WeightArena, TooLittleMemoryIsAnError) {
  WeightArena arena;
  plan(arena, {{"all of it", WeightPart::forward, std::size_t{1} << 52, 0}});
  try {
    arena.create();
    FAIL() << "no machine has that";
  } catch (const CannotShare& error) {
    FAIL() << "private copies would need more: " << error.what();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("cannot hold 4194304.00 GiB of weights for the ranks of this node: "));
  }
}

TEST(WeightArena, OurOwnMistakesEndTheProgram) {
  WeightArena arena;
  plan(arena);
  EXPECT_DEATH(arena.take("a", WeightPart::forward, 5, 1), "two blocks are called a");
  EXPECT_DEATH(arena.handle(), "");
  arena.create();
  EXPECT_DEATH(arena.take("c", WeightPart::forward, 5, 1), "c was not planned");
  EXPECT_DEATH(arena.take("a", WeightPart::forward, 5, 2), "a was planned with another part, size or layout");
  EXPECT_DEATH(arena.create(), "");
}

}  // namespace
}  // namespace biqa
