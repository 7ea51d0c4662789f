// SPDX-License-Identifier: Apache-2.0
// Tiny data sets in the layout of their authors. Names and numbers are invented.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "datasets/import.h"
#include "io/image.h"
#include "support/temporary_folder.h"

namespace biqa {

class DataSetFixture : public ::testing::Test {
 protected:
  /// A picture of one colour below `root`.
  void picture(const std::string& name, std::int64_t width = 6, std::int64_t height = 4,
               std::uint8_t shade = 90) const {
    const std::filesystem::path file = folder_.path() / "root" / name;
    std::filesystem::create_directories(file.parent_path());
    write_png(file, {width, height,
                     std::vector<std::uint8_t>(static_cast<std::size_t>(3 * width * height), shade)});
  }
  /// A label file below `root`.
  std::filesystem::path labels(const std::string& name, const std::string& content) const {
    return folder_.write("root/" + name, content);
  }

  ImportOptions options(const std::string& set) const {
    ImportOptions options;
    options.set = set;
    options.root = folder_.path() / "root";
    options.out = folder_.path() / "out" / "m.jsonl";
    std::filesystem::create_directories(options.out.parent_path());
    std::filesystem::create_directories(options.root);
    return options;
  }

  /// The rows that an import writes. What it says is in `said_`.
  std::vector<nlohmann::json> import(const ImportOptions& options) {
    ::testing::internal::CaptureStderr();
    try {
      result_ = import_data_set(options);
    } catch (...) {
      said_ = ::testing::internal::GetCapturedStderr();
      throw;
    }
    said_ = ::testing::internal::GetCapturedStderr();
    std::vector<nlohmann::json> rows;
    std::istringstream lines(file_content(options.out));
    for (std::string line; std::getline(lines, line);) rows.push_back(nlohmann::json::parse(line));
    return rows;
  }

  /// The error of an import, which must leave no file.
  std::string refusal(const ImportOptions& options) {
    std::string message = error_of([&] { import(options); });
    EXPECT_FALSE(message.empty()) << "the import succeeded";
    EXPECT_TRUE(std::filesystem::is_empty(options.out.parent_path()));
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  }

  TemporaryFolder folder_;
  ImportResult result_;
  std::string said_;
};

}  // namespace biqa
