// SPDX-License-Identifier: Apache-2.0
#include "core/bytes_text.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>

namespace biqa {
namespace {

TEST(BytesText, SmallNumbersAreNotRoundedToZero) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(std::size_t{1023}), "1023 B");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text((1 << 20) - 1024), "1023.0 KiB");
  EXPECT_EQ(bytes_text(3 << 19), "1.5 MiB");
  EXPECT_EQ(bytes_text(std::int64_t{27} << 30), "27.00 GiB");
}

}  // namespace
}  // namespace biqa
