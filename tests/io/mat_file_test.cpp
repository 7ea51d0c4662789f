// SPDX-License-Identifier: Apache-2.0
// MATLAB files that scipy and h5py wrote.
#include "io/mat_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/random.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const fs::path kFolder = fs::path(BIQA_SOURCE_DIR) / "tests/fixtures/labels";

std::vector<std::string> expected_names() {
  return nlohmann::json::parse(file_content(kFolder / "expected.json"))["names"]
      .get<std::vector<std::string>>();
}
std::vector<double> expected_scores() {
  return nlohmann::json::parse(file_content(kFolder / "expected.json"))["scores"].get<std::vector<double>>();
}

TEST(MatFile, Version5) {
  for (const char* name : {"plain.mat", "packed.mat"}) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(is_mat_file(kFolder / name));
    EXPECT_EQ(read_mat_texts(kFolder / name, "names"), expected_names());
    EXPECT_EQ(read_mat_numbers(kFolder / name, "scores"), expected_scores());
    EXPECT_THAT(read_mat_numbers(kFolder / name, "single"), ElementsAre(1.5, -2));
    EXPECT_THAT(read_mat_numbers(kFolder / name, "small"), ElementsAre(1, 255));
  }
}

TEST(MatFile, Version73) {
  std::vector<std::string> names = expected_names();
  names.emplace_back();  // an empty text
  EXPECT_EQ(read_mat_texts(kFolder / "new.mat", "names"), names);
  EXPECT_EQ(read_mat_numbers(kFolder / "new.mat", "scores"), expected_scores());
}

TEST(MatFile, Refusals) {
  const auto texts = [](const fs::path& file, const char* variable) {
    return error_of([&] { read_mat_texts(file, variable); });
  };
  const auto numbers = [](const fs::path& file, const char* variable) {
    return error_of([&] { read_mat_numbers(file, variable); });
  };
  for (const char* name : {"plain.mat", "new.mat"}) {
    SCOPED_TRACE(name);
    EXPECT_THAT(texts(kFolder / name, "absent"), HasSubstr("no such variable"));
    EXPECT_THAT(texts(kFolder / name, "scores"), HasSubstr("not a cell array"));
    EXPECT_THAT(numbers(kFolder / name, "names"), HasSubstr("not an array of real numbers"));
  }
  EXPECT_THAT(numbers(kFolder / "plain.mat", "complex"), HasSubstr("not an array of real numbers"));
  EXPECT_THAT(numbers(kFolder / "expected.json", "scores"), HasSubstr("not a MATLAB file"));
  EXPECT_THAT(numbers(kFolder / "nowhere.mat", "scores"), HasSubstr("nowhere.mat"));
}

// Bytes changed at random: values or an Error, never a crash of this process.
TEST(MatFile, DamagedFiles) {
  const TemporaryFolder folder;
  const RandomStream random{7, 9};
  std::uint64_t draw = 0;
  int refused = 0;
  for (const char* name : {"plain.mat", "packed.mat", "new.mat"}) {
    const std::string whole = file_content(kFolder / name);
    for (int trial = 0; trial < 12; ++trial) {
      std::string damaged = whole;
      for (int i = 0; i < 20; ++i) {
        const auto at = static_cast<std::size_t>(random.uniform(draw++) * static_cast<double>(whole.size()));
        damaged[std::min(at, whole.size() - 1)] = static_cast<char>(random.uniform(draw++) * 256);
      }
      const fs::path file = folder.write("damaged.mat", damaged);
      for (const bool as_texts : {false, true}) {
        refused += error_of([&] {
                     if (as_texts)
                       read_mat_texts(file, "names");
                     else
                       read_mat_numbers(file, "scores");
                   }).empty()
                       ? 0
                       : 1;
      }
    }
  }
  EXPECT_GT(refused, 20);
}

}  // namespace
}  // namespace biqa
