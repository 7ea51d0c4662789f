// SPDX-License-Identifier: Apache-2.0
// A log that other programs read while it grows: every record stands in it whole or not at all.
#pragma once

#include <filesystem>
#include <string_view>

namespace biqa {

/// A file open for appending; one writer.
class AppendFile {
 public:
  /// Opens or creates the file. Throws Error when it cannot.
  explicit AppendFile(std::filesystem::path file);
  ~AppendFile();
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&&) = delete;
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// Hands the record to the system at once, so that it outlives the process. Throws Error when it cannot be
  /// written whole (full disk); what was written of it is cut off again. Throws Error, too, when the path no longer
  /// leads to this file (removed or moved): nobody would find the record.
  void append(std::string_view record);
  const std::filesystem::path& path() const { return file_; }

 private:
  bool is_in_its_place() const;

  std::filesystem::path file_;
  int descriptor_ = -1;
};

}  // namespace biqa
