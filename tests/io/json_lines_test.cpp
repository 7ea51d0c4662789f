// SPDX-License-Identifier: Apache-2.0
#include "io/json_lines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace biqa {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(JsonLines, BlankLinesCountButAreNotRead) {
  std::vector<std::pair<std::int64_t, std::string>> lines;
  const auto read = [&](std::int64_t number, std::string_view line) { lines.emplace_back(number, line); };
  EXPECT_EQ(for_each_json_line("{\"a\": 1}\r\n \t\r\n\n{}\nlast", read), 5);
  EXPECT_THAT(lines, ElementsAre(Pair(1, "{\"a\": 1}\r"), Pair(4, "{}"), Pair(5, "last")));
  lines.clear();
  EXPECT_EQ(for_each_json_line("", read), 0);
  EXPECT_EQ(for_each_json_line("\n", read), 1);
  EXPECT_THAT(lines, IsEmpty());
}

}  // namespace
}  // namespace biqa
