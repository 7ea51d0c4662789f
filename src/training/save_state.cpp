// SPDX-License-Identifier: Apache-2.0
#include "training/save_state.h"

namespace biqa {

void SaveProgress::ask() {
  if (state_ == SaveState::idle)
    state_ = SaveState::due;
  else if (state_ == SaveState::writing)
    state_ = SaveState::writing_due;
}

void SaveProgress::ask_at_once(std::int64_t step) {
  urgent_step_ = step;
  ask();
}

void SaveProgress::withdraw() {
  if (wanted()) state_ = running() ? SaveState::writing : SaveState::idle;
}

bool SaveProgress::delayed() {
  if (state_ != SaveState::writing_due) return false;
  state_ = SaveState::writing_late;
  return true;
}

void SaveProgress::ended() {
  if (running()) state_ = wanted() ? SaveState::due : SaveState::idle;
}

}  // namespace biqa
