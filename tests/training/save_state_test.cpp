// SPDX-License-Identifier: Apache-2.0
// The transitions between the states of a run's saves.
#include "training/save_state.h"

#include <gtest/gtest.h>

#include <array>

namespace biqa {
namespace {

using enum SaveState;

/// Progress that is in this state.
SaveProgress in(SaveState state) {
  SaveProgress progress;
  if (state == writing || state == writing_due || state == writing_late) progress.begin();
  if (state != idle && state != writing) progress.ask();
  if (state == writing_late) progress.delayed();
  EXPECT_EQ(progress.state(), state);
  return progress;
}

struct Row {
  SaveState before;
  SaveState asked, withdrawn, delayed, begun, ended;
};
constexpr std::array<Row, 5> kRows{{
    {idle, due, idle, idle, writing, idle},
    {due, due, idle, due, writing, due},
    {writing, writing_due, writing, writing, writing, idle},
    {writing_due, writing_due, writing, writing_late, writing, due},
    {writing_late, writing_late, writing, writing_late, writing, due},
}};

TEST(SaveProgress, EveryEventInEveryState) {
  for (const Row& row : kRows) {
    SCOPED_TRACE(static_cast<int>(row.before));
    SaveProgress asked = in(row.before);
    asked.ask();
    EXPECT_EQ(asked.state(), row.asked);
    SaveProgress urgent = in(row.before);
    urgent.ask_at_once(3);
    EXPECT_EQ(urgent.state(), row.asked);
    SaveProgress withdrawn = in(row.before);
    withdrawn.withdraw();
    EXPECT_EQ(withdrawn.state(), row.withdrawn);
    SaveProgress delayed = in(row.before);
    EXPECT_EQ(delayed.delayed(), row.before == writing_due);
    EXPECT_EQ(delayed.state(), row.delayed);
    SaveProgress begun = in(row.before);
    begun.begin();
    EXPECT_EQ(begun.state(), row.begun);
    SaveProgress ended = in(row.before);
    ended.ended();
    EXPECT_EQ(ended.state(), row.ended);
  }
}

TEST(SaveProgress, TheStateSaysWhatRunsAndWhatIsWanted) {
  for (const Row& row : kRows) {
    SCOPED_TRACE(static_cast<int>(row.before));
    const SaveProgress progress = in(row.before);
    EXPECT_EQ(progress.running(), row.before != idle && row.before != due);
    EXPECT_EQ(progress.wanted(), row.before != idle && row.before != writing);
    EXPECT_EQ(progress.may_begin(1), !progress.running());
  }
}

TEST(SaveProgress, OnlyAnUrgentStepBeginsDuringAnotherSave) {
  SaveProgress progress = in(writing);
  progress.ask_at_once(4);
  EXPECT_FALSE(progress.may_begin(3));
  EXPECT_TRUE(progress.may_begin(4));
  EXPECT_FALSE(progress.may_begin(5));
}

}  // namespace
}  // namespace biqa
