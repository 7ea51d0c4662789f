// SPDX-License-Identifier: Apache-2.0
// A log that other programs may read while it grows: every record is in it whole or not at all.
#pragma once

#include <filesystem>
#include <string_view>

namespace biqa {

/// A file open for appending by one writer.
class AppendFile {
 public:
  /// Opens or creates the file. Throws Error if that fails.
  explicit AppendFile(std::filesystem::path file);
  ~AppendFile();
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&&) = delete;
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// Passes the record to the system at once, so that it survives the end of the process. If the record cannot be
  /// written whole (full disk), removes the written part and throws Error. Also throws Error if the path no longer
  /// leads to this file (removed or moved), because nobody would find the record.
  void append(std::string_view record);
  const std::filesystem::path& path() const { return file_; }

 private:
  bool is_in_its_place() const;

  std::filesystem::path file_;
  int descriptor_ = -1;
};

}  // namespace biqa
