// SPDX-License-Identifier: Apache-2.0
// Decides when a run may begin its next save. All learners go through the same states in the same order.
#pragma once

#include <cstdint>

namespace biqa {

/// The states and what moves a run from one to the next (SaveProgress has one function for each event):
///
///   idle         ask → due            begin → writing
///   due          withdraw → idle      begin → writing
///   writing      ask → writing_due    ended → idle
///   writing_due  delayed → writing_late    withdraw → writing    ended → due    begin → writing
///   writing_late                           withdraw → writing    ended → due    begin → writing
///
/// Every other event changes nothing. A save that begins during another one waits for it.
enum class SaveState : std::uint8_t {
  idle,          ///< no save is running, none is wanted
  due,           ///< a save is wanted, none is running
  writing,       ///< a save is running
  writing_due,   ///< a save is running, the next one is wanted
  writing_late,  ///< the same, and the delay has been noticed
};

class SaveProgress {
 public:
  SaveState state() const { return state_; }
  bool wanted() const {
    return state_ == SaveState::due || state_ == SaveState::writing_due || state_ == SaveState::writing_late;
  }
  bool running() const { return state_ != SaveState::idle && state_ != SaveState::due; }

  void ask();
  /// As ask(), but this step's save must not be delayed by another save.
  void ask_at_once(std::int64_t step);
  void withdraw();
  /// Notes that the wanted save must wait for the running one. Returns true only the first time.
  bool delayed();
  /// True if a save may start now: no save is running, or that of `step` must not be delayed.
  bool may_begin(std::int64_t step) const { return !running() || urgent_step_ == step; }
  void begin() { state_ = SaveState::writing; }
  /// The running save has ended, successfully or not.
  void ended();

 private:
  SaveState state_ = SaveState::idle;
  std::int64_t urgent_step_ = -1;
};

}  // namespace biqa
