// SPDX-License-Identifier: Apache-2.0
#include "core/error.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace biqa {
namespace {

TEST(Error, FailCarriesMessageAndExitCode) {
  try {
    fail("cannot read {}: {} of {} bytes; copy it again", "a.h5", 3, 10);
    FAIL() << "fail returned";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "cannot read a.h5: 3 of 10 bytes; copy it again");
    EXPECT_EQ(error.code(), ExitCode::world);
  }
}

TEST(Error, FailUsageIsExitCodeTwo) {
  try {
    fail_usage("config {}: unknown", "x.y");
    FAIL() << "fail_usage returned";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "config x.y: unknown");
    EXPECT_EQ(static_cast<int>(error.code()), 2);
  }
}

TEST(Error, ArgumentsAreNeverFormats) {
  try {
    fail("file {}: bad", "{0} {} %s");
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "file {0} {} %s: bad");
  }
}

// A file's name or content must not break the line, nor steer a terminal.
TEST(Error, IsOneLineWhateverItQuotes) {
  try {
    fail("cannot use {}: bad", "a\nb\r\t\x1B[2J\x7F\xC2\x9B \xC3\xA9 \\n");
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "cannot use a\\nb\\r\\t\\x1b[2J\\x7f\\u009b \xC3\xA9 \\n: bad");
  }
  EXPECT_STREQ(Error("two\nlines").what(), "two\\nlines");
}

TEST(Error, SaidIsOneLineWhateverItQuotes) {
  ::testing::internal::CaptureStderr();
  say("warning: {}\n", "a\nb\n");
  say("{}", "open");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "warning: a\\nb\\n\nopen");
}

TEST(Error, ExitCodesAreTheContract) {
  EXPECT_EQ(static_cast<int>(ExitCode::done), 0);
  EXPECT_EQ(static_cast<int>(ExitCode::world), 1);
  EXPECT_EQ(static_cast<int>(ExitCode::usage), 2);
  EXPECT_EQ(static_cast<int>(ExitCode::partial), 3);
  EXPECT_EQ(static_cast<int>(ExitCode::stopped), 75);
}

}  // namespace
}  // namespace biqa
