// SPDX-License-Identifier: Apache-2.0
// Turns the files of a data set into a manifest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "datasets/data_set.h"
#include "io/image.h"

namespace biqa {

struct ImportOptions {
  std::string set;  ///< name in the table of data sets
  std::filesystem::path root, out;
  std::optional<std::filesystem::path> labels;
  std::string images;                          ///< folder of the images below the root; empty: the set's own
  std::vector<std::string> splits;             ///< as given; empty or "all": every row
  std::string scale;                           ///< name, or MIN..MAX; empty: the set's first
  std::map<std::string, std::string> columns;  ///< by role
  std::string sheet;                           ///< of a workbook; empty: the only one with the columns
  std::string
      name;  ///< `set` of the rows of the user's own table; empty: the label file's name without extension
  ImageSize expected;  ///< size that every image must have; 0: any
  bool with_tutorial = false, skip_bad = false, check_images = true;
};

struct ImportResult {
  std::int64_t rows = 0;              ///< written
  std::vector<std::string> left_out;  ///< bad rows, with skip_bad
};

/// Writes the manifest. What a person should know (counts, scale, direction, sizes) goes to standard error. Throws Error
/// (usage) for a wrong set, split, scale, column or sheet, and Error for a bad row or image unless skip_bad is set.
/// After an Error there is no manifest.
ImportResult import_data_set(const ImportOptions& options);

/// The role=NAME pairs of --columns. A comma begins a new pair only before a role. Throws Error (usage).
std::map<std::string, std::string> parse_columns(const std::string& text);
/// WxH. Throws Error (usage).
ImageSize parse_picture_size(const std::string& text);
/// Words between commas.
std::vector<std::string> words_of(const std::string& text);

}  // namespace biqa
