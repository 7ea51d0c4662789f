// SPDX-License-Identifier: Apache-2.0
// Progress for people, on standard error: one line that is redrawn on a terminal, plain lines every few
// seconds elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace biqa {

enum class ProgressMode : std::uint8_t {
  automatic,  ///< redrawn on a terminal, else lines
  redraw,
  lines,
  off,
};

/// `step 12/50  24 %  1.4 s/step  53 s left  reward 1.42  …`; the rate is that of this run alone.
class Progress {
 public:
  /// `what` names one unit ("step", "image"); `done` of `total` units are done already (a resumed run).
  Progress(std::string what, std::int64_t total, std::int64_t done = 0,
           ProgressMode mode = ProgressMode::automatic);
  /// Ends the line where one is open.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` units are done; `detail` ends the line ("reward 1.42  kl 0.01").
  void update(std::int64_t done, const std::string& detail = "");
  /// Prints the last state and a line end; later updates do nothing.
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
  bool open_ = false;        // a redrawn line stands on the terminal
  bool finished_ = false;
};

/// "45 s", "1:15 min", "2:03 h".
std::string duration_text(double seconds);

/// The line itself; the rate is that of the `done - start` units of this run, which took `seconds`.
std::string progress_text(const std::string& what, std::int64_t done, std::int64_t start, std::int64_t total,
                          double seconds, const std::string& detail);

}  // namespace biqa
