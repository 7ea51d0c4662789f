// SPDX-License-Identifier: Apache-2.0
// Which rows a step looks at, whatever the run went on from.
#include "training/training_data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace biqa {
namespace {

TrainingData data_of(std::size_t rows, std::int64_t images_per_step, std::int64_t epochs) {
  TrainingData data;
  data.train.resize(rows);
  data.images_per_step = images_per_step;
  data.seed = 5;
  data.epochs = epochs;
  data.go_on_after(0, 0);
  return data;
}

TEST(TrainingData, AnEpochHasEachRowAtMostOnceAndAnOrderOfItsOwn) {
  const TrainingData data = data_of(11, 3, 4);
  ASSERT_EQ(data.steps, 4 * 3);
  std::vector<std::vector<std::size_t>> epochs;
  for (std::int64_t step = 1; step <= data.steps; ++step) {
    if (step % 3 == 1) epochs.emplace_back();
    const auto rows = data.rows_of_step(step);
    ASSERT_EQ(rows.size(), 3U);
    epochs.back().insert(epochs.back().end(), rows.begin(), rows.end());
    EXPECT_EQ(data.epochs_after(step), static_cast<double>(step) / 3);
  }
  for (const auto& rows : epochs) {
    EXPECT_EQ(std::set(rows.begin(), rows.end()).size(), 9U);
    EXPECT_LT(*std::max_element(rows.begin(), rows.end()), 11U);
  }
  EXPECT_EQ(std::set(epochs.begin(), epochs.end()).size(), 4U);
}

TEST(TrainingData, GoingOnChangesNothing) {
  for (const std::size_t rows : {9, 10, 11}) {
    const TrainingData whole = data_of(rows, 3, 4);
    for (std::int64_t stop = 0; stop <= whole.steps; ++stop) {
      TrainingData resumed = data_of(rows, 3, 4);
      resumed.go_on_after(stop, whole.cursor_after(stop));
      EXPECT_EQ(resumed.steps, whole.steps);
      for (std::int64_t step = stop + 1; step <= whole.steps; ++step) {
        EXPECT_EQ(resumed.rows_of_step(step), whole.rows_of_step(step)) << rows << " " << stop << " " << step;
        EXPECT_EQ(resumed.cursor_after(step), whole.cursor_after(step));
        EXPECT_EQ(resumed.epochs_after(step), whole.epochs_after(step));
      }
    }
  }
}

TEST(TrainingData, OtherImagesPerStepGoOnWhereTheOthersEnded) {
  TrainingData threes = data_of(11, 3, 3), ones = data_of(11, 1, 3), fours = data_of(11, 4, 3);
  threes.go_on_after(0, 0);
  // Two steps of three leave five rows of the first epoch: one step of four or five of one.
  for (TrainingData* data : {&ones, &fours}) data->go_on_after(2, threes.cursor_after(2));
  EXPECT_EQ(fours.steps, 2 + 1 + 2 * 2);
  EXPECT_EQ(ones.steps, 2 + 5 + 2 * 11);
  std::set<std::size_t> seen;
  for (const TrainingData* data : {&threes, &ones}) {
    for (std::int64_t step = data == &ones ? 3 : 1; step <= (data == &ones ? 7 : 2); ++step) {
      for (const std::size_t row : data->rows_of_step(step)) EXPECT_TRUE(seen.insert(row).second);
    }
  }
  EXPECT_EQ(seen.size(), 11U);
  std::vector<std::size_t> four;
  for (std::int64_t step = 3; step <= 6; ++step) four.push_back(ones.rows_of_step(step).at(0));
  EXPECT_EQ(fours.rows_of_step(3), four);
  EXPECT_EQ(fours.epochs_after(3), 1.0);
  // The next epoch begins whole.
  const TrainingData whole = data_of(11, 4, 3);
  EXPECT_EQ(fours.rows_of_step(4), whole.rows_of_step(3));
  EXPECT_EQ(fours.cursor_after(4), 11 + 4);
  EXPECT_EQ(fours.epochs_after(4), 1.5);
}

TEST(TrainingData, FurtherRowsAreAllTheOthersInAnOrderOfTheStep) {
  const TrainingData data = data_of(11, 3, 4);
  const std::vector<std::size_t> own = data.rows_of_step(2), all = data.further_rows(2, 0, 100);
  std::set<std::size_t> seen(own.begin(), own.end());
  for (const std::size_t row : all) EXPECT_TRUE(seen.insert(row).second) << row;
  EXPECT_EQ(seen.size(), 11U);
  // In rounds they are the same.
  std::vector<std::size_t> rounds;
  for (const std::size_t count : {2U, 0U, 5U, 9U}) {
    const std::vector<std::size_t> more = data.further_rows(2, rounds.size(), count);
    EXPECT_EQ(more.size(), std::min<std::size_t>(count, 8 - rounds.size()));
    rounds.insert(rounds.end(), more.begin(), more.end());
  }
  EXPECT_EQ(rounds, all);
  EXPECT_TRUE(data.further_rows(2, 8, 1).empty());
  EXPECT_NE(data.further_rows(5, 0, 100), all);
  // A run that goes on draws the same.
  TrainingData resumed = data_of(11, 3, 4);
  resumed.go_on_after(1, data.cursor_after(1));
  EXPECT_EQ(resumed.further_rows(2, 0, 100), all);
}

TEST(TrainingData, StepsThatWereAskedForStay) {
  TrainingData data = data_of(10, 2, 0);
  data.steps = 7;
  data.go_on_after(3, 8);
  EXPECT_EQ(data.steps, 7);
}

}  // namespace
}  // namespace biqa
