// SPDX-License-Identifier: Apache-2.0
// Writes this rank's log lines, each with rank and role, to a separate file in addition to standard error.
#pragma once

#include <glog/logging.h>

#include <filesystem>
#include <string>

#include "io/append_file.h"

namespace biqa {

class RankLog final : public google::LogSink {
 public:
  /// Appends to `file`. `name`: "rank 3 actor". Throws Error if the file cannot be opened.
  RankLog(const std::filesystem::path& file, std::string name);
  ~RankLog() override;
  RankLog(const RankLog&) = delete;
  RankLog& operator=(const RankLog&) = delete;

  void send(google::LogSeverity severity, const char* full_filename, const char* base_filename, int line,
            const google::LogMessageTime& time, const char* message, std::size_t length) override;

 private:
  AppendFile file_;
  const std::string name_;
};

}  // namespace biqa
