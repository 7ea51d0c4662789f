// SPDX-License-Identifier: Apache-2.0
#include "run/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace biqa {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kLineSeconds = 5.0;

std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// Columns are counted in code points: close enough for the text written here, and a character is never cut in two.
std::string cut_to(const std::string& text, std::size_t columns) {
  std::size_t seen = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U) continue;
    if (seen++ == columns) return text.substr(0, at);
  }
  return text;
}

void write_error(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const auto whole = static_cast<std::int64_t>(std::llround(std::min(seconds, 1e9)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02} min", whole / 60, whole % 60);
  return fmt::format("{}:{:02} h", whole / 3600, whole / 60 % 60);
}

std::string progress_text(const std::string& what, std::int64_t done, std::int64_t start, std::int64_t total,
                          double seconds, const std::string& detail) {
  std::string text = fmt::format("{} {}/{}", what, done, total);
  if (total > 0) text += fmt::format("  {} %", 100 * done / total);
  if (done > start && seconds > 0) {
    const double each = seconds / static_cast<double>(done - start);
    text +=
        each >= 1 ? fmt::format("  {:.1f} s/{}", each, what) : fmt::format("  {:.1f} {}s/s", 1 / each, what);
    text += done < total ? fmt::format("  {} left", duration_text(each * static_cast<double>(total - done)))
                         : fmt::format("  in {}", duration_text(seconds));
  }
  if (!detail.empty()) text += fmt::format("  {}", detail);
  return text;
}

Progress::Progress(std::string what, std::int64_t total, std::int64_t done, ProgressMode mode)
    : what_(std::move(what)), total_(total), start_(done), done_(done), mode_(mode), begin_(Clock::now()) {
  if (mode_ == ProgressMode::automatic) {
    mode_ = ::isatty(STDERR_FILENO) != 0 ? ProgressMode::redraw : ProgressMode::lines;
  }
}

Progress::~Progress() {
  if (!finished_ && open_) write_error("\n");
}

void Progress::update(std::int64_t done, const std::string& detail) {
  done_ = done;
  detail_ = detail;
  if (finished_ || mode_ == ProgressMode::off) return;
  const Clock::time_point now = Clock::now();
  const double wait = mode_ == ProgressMode::redraw ? kRedrawSeconds : kLineSeconds;
  if (shown_ >= 0 && std::chrono::duration<double>(now - printed_).count() < wait) return;
  printed_ = now;
  print();
}

void Progress::finish() {
  if (finished_ || mode_ == ProgressMode::off) return;
  if (shown_ != done_ || mode_ == ProgressMode::redraw) print();
  if (open_) write_error("\n");
  open_ = false;
  finished_ = true;
}

void Progress::clear() {
  if (!open_) return;
  write_error("\r\x1b[K");
  open_ = false;
}

void Progress::print() {
  const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  const std::string text = progress_text(what_, done_, start_, total_, seconds, detail_);
  shown_ = done_;
  if (mode_ == ProgressMode::redraw) {
    // One column stays free: a terminal that wraps would leave lines behind.
    write_error(fmt::format("\r{}\x1b[K", cut_to(text, terminal_width() - 1)));
    open_ = true;
  } else {
    write_error(text + "\n");
  }
}

}  // namespace biqa
