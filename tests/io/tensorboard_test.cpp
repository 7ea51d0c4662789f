// SPDX-License-Identifier: Apache-2.0
#include "io/tensorboard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "support/temporary_folder.h"

namespace biqa {
namespace {

std::string bytes(std::initializer_list<int> values) {
  std::string text;
  for (const int value : values) text += static_cast<char>(value);
  return text;
}

// RFC 3720, appendix B.4, and the check value of the CRC catalogue.
TEST(Tensorboard, Crc32c) {
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43U);
}

// The two CRCs come from TensorBoard's own crc32c (tests/scripts/check_tensorboard.py --record abc).
TEST(Tensorboard, RecordLayout) {
  const std::string record = tensorboard_record("abc");
  ASSERT_EQ(record.size(), 8U + 4U + 3U + 4U);
  EXPECT_EQ(record.substr(0, 8), bytes({3, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(record.substr(8, 4), bytes({0xB0, 0x99, 0x49, 0x0E}));
  EXPECT_EQ(record.substr(12, 3), "abc");
  EXPECT_EQ(record.substr(15, 4), bytes({0x6E, 0x57, 0xF1, 0x21}));
}

TEST(Tensorboard, EventBytes) {
  const TensorboardScalar scalar{"a/b", 1.5};
  const std::string event = tensorboard_event(2.0, 300, {&scalar, 1});
  EXPECT_EQ(event, bytes({0x09, 0,    0,    0,    0,   0, 0, 0, 0x40,  // 1: wall_time 2.0
                          0x10, 0xAC, 0x02,                            // 2: step 300
                          0x2A, 0x0C,                                  // 5: summary of 12 bytes
                          0x0A, 0x0A,                                  // 1: value of 10 bytes
                          0x0A, 0x03, 'a',  '/',  'b',                 // 1: tag
                          0x15, 0,    0,    0xC0, 0x3F}));             // 2: simple_value 1.5
}

TEST(Tensorboard, FileHoldsVersionAndEvents) {
  const TemporaryFolder folder;
  TensorboardWriter writer(folder.path() / "tensorboard");
  EXPECT_THAT(writer.file().filename().string(), testing::StartsWith("events.out.tfevents."));
  const std::array<TensorboardScalar, 2> scalars{{{"x", 1}, {"y", 2}}};
  writer.add(5.0, 7, scalars);
  const std::string content = file_content(writer.file());
  std::vector<std::string> records;
  for (std::size_t at = 0; at + 16 <= content.size();) {
    std::uint64_t length = 0;
    std::memcpy(&length, content.data() + at, 8);
    records.push_back(content.substr(at + 12, length));
    EXPECT_EQ(content.substr(at, 16 + length), tensorboard_record(records.back()));
    at += 16 + length;
  }
  ASSERT_EQ(records.size(), 2U);
  EXPECT_THAT(records[0], testing::EndsWith(bytes({0x1A, 13}) + "brain.Event:2"));
  EXPECT_EQ(records[1], tensorboard_event(5.0, 7, scalars));
}

TEST(Tensorboard, NamesAFolderItCannotMake) {
  const TemporaryFolder folder;
  const auto file = folder.write("file", "x");
  EXPECT_THAT(error_of([&] { TensorboardWriter writer(file / "sub"); }), testing::HasSubstr("file/sub"));
}

}  // namespace
}  // namespace biqa
