// SPDX-License-Identifier: Apache-2.0
// Memory of large buffers: freed blocks serve again and are never many more than were in use at once.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "core/random.h"
#include "tensor/tensor.h"

namespace biqa {
namespace {

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

TEST(Blocks, KeepTheirContentAndLittleMoreThanIsInUse) {
  constexpr std::size_t kMost = std::size_t{64} << 20;
  const RandomStream stream{11};
  [[maybe_unused]] const std::size_t before = resident_bytes();
  std::vector<Buffer> held;
  std::size_t bytes = 0, resident = 0, draw = 0;
  for (int round = 0; round < 400; ++round) {
    while (bytes > kMost / 2 && !held.empty()) {
      const std::size_t which = stream.word(draw++) % held.size();
      const auto* first = static_cast<const unsigned char*>(held[which].data());
      const auto tag = static_cast<unsigned char>(held[which].bytes());
      EXPECT_EQ(first[0], tag);
      EXPECT_EQ(first[held[which].bytes() - 1], tag);
      bytes -= held[which].bytes();
      std::swap(held[which], held.back());
      held.pop_back();
    }
    const std::size_t size = 1000 + stream.word(draw++) % (kMost / 8);
    Buffer& buffer = held.emplace_back(size, "test");
    std::fill_n(static_cast<unsigned char*>(buffer.data()), size, static_cast<unsigned char>(size));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0U);
    bytes += size;
    resident = std::max(resident, resident_bytes());
  }
#ifndef __SANITIZE_ADDRESS__
  EXPECT_LT(resident - before, static_cast<std::size_t>(1.4 * static_cast<double>(memory_total().peak)));
#endif
}

}  // namespace
}  // namespace biqa
