// SPDX-License-Identifier: Apache-2.0
// Shows progress on standard error: one line that is redrawn on a terminal, otherwise a plain line every few seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace biqa {

enum class ProgressMode : std::uint8_t {
  automatic,  ///< redraw on a terminal, otherwise lines
  redraw,
  lines,
  off,
};

/// Prints `step 12/50  24 %  1.4 s/step  53 s left  reward 1.42  …`. The rate counts only units of this process.
class Progress {
 public:
  /// `what`: name of one unit ("step", "image"). `done` of `total` units are already done (after a resume).
  Progress(std::string what, std::int64_t total, std::int64_t done = 0,
           ProgressMode mode = ProgressMode::automatic);
  /// Ends an open line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` units are done; `detail` ends the line ("reward 1.42  kl 0.01").
  void update(std::int64_t done, const std::string& detail = "");
  /// Prints the last state and ends the line. Later updates do nothing.
  void finish();
  /// Clears a redrawn line so that a message can be printed; the next update draws it again.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  void print();

  std::string what_, detail_;
  std::int64_t total_, start_, done_;
  ProgressMode mode_;
  Clock::time_point begin_, printed_;
  std::int64_t shown_ = -1;  // number of units printed last
  bool open_ = false;        // a redrawn line is on the terminal
  bool finished_ = false;
};

/// "45 s", "1:15 min", "2:03 h".
std::string duration_text(double seconds);

/// The text of the progress line. Its rate is (done - start) / seconds.
std::string progress_text(const std::string& what, std::int64_t done, std::int64_t start, std::int64_t total,
                          double seconds, const std::string& detail);

}  // namespace biqa
