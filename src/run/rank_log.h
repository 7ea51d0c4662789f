// SPDX-License-Identifier: Apache-2.0
// Writes this rank's log lines, each with rank and role, to a separate file in addition to standard error. The folder of
// the file may not exist yet: lines are kept until the file is opened.
#pragma once

#include <glog/logging.h>

#include <filesystem>
#include <mutex>
#include <optional>
#include <string>

#include "io/append_file.h"

namespace biqa {

class RankLog final : public google::LogSink {
 public:
  /// Keeps the lines from now on. `name`: "rank 3 actor".
  explicit RankLog(std::string name);
  ~RankLog() override;
  RankLog(const RankLog&) = delete;
  RankLog& operator=(const RankLog&) = delete;

  /// Appends the kept lines to `file`, and each later line at once. Throws Error if the file cannot be written.
  void open(const std::filesystem::path& file);

  void send(google::LogSeverity severity, const char* full_filename, const char* base_filename, int line,
            const google::LogMessageTime& time, const char* message, std::size_t length) override;

 private:
  const std::string name_;
  std::mutex mutex_;  ///< several threads may log
  std::string kept_;
  std::optional<AppendFile> file_;
};

}  // namespace biqa
