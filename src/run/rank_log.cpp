// SPDX-License-Identifier: Apache-2.0
#include "run/rank_log.h"

#include <fmt/chrono.h>

#include <utility>

#include "core/error.h"

namespace biqa {

RankLog::RankLog(std::string name) : name_(std::move(name)) {
  google::AddLogSink(this);
}

RankLog::~RankLog() {
  google::RemoveLogSink(this);
}

void RankLog::open(const std::filesystem::path& file) {
  const std::lock_guard lock(mutex_);
  file_.emplace(file);
  if (!kept_.empty()) file_->append(kept_);
  kept_.clear();
}

void RankLog::send(google::LogSeverity severity, const char* /*full_filename*/, const char* base_filename,
                   int line, const google::LogMessageTime& time, const char* message, std::size_t length) {
  const std::string text =
      fmt::format("{:%Y-%m-%d %H:%M:%S} {} {}: {} [{}:{}]\n", time.tm(), name_,
                  google::GetLogSeverityName(severity), one_line({message, length}), base_filename, line);
  const std::lock_guard lock(mutex_);
  try {
    if (file_)
      file_->append(text);
    else
      kept_ += text;
  } catch (const Error&) {
    // The line is also on standard error. A full disk is reported by the writes that it stops.
  }
}

}  // namespace biqa
