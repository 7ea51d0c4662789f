// SPDX-License-Identifier: Apache-2.0
#include "run/rank_log.h"

#include <fmt/chrono.h>

#include <utility>

#include "core/error.h"

namespace biqa {

RankLog::RankLog(const std::filesystem::path& file, std::string name) : file_(file), name_(std::move(name)) {
  google::AddLogSink(this);
}

RankLog::~RankLog() {
  google::RemoveLogSink(this);
}

void RankLog::send(google::LogSeverity severity, const char* /*full_filename*/, const char* base_filename,
                   int line, const google::LogMessageTime& time, const char* message, std::size_t length) {
  try {
    file_.append(fmt::format("{:%Y-%m-%d %H:%M:%S} {} {}: {} [{}:{}]\n", time.tm(), name_,
                             google::GetLogSeverityName(severity), std::string_view(message, length),
                             base_filename, line));
  } catch (const Error&) {
    // The line is also on standard error. A full disk is reported by the writes that it stops.
  }
}

}  // namespace biqa
