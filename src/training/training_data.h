// SPDX-License-Identifier: Apache-2.0
// The manifests of a run, and which of their rows a step looks at.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/manifest.h"
#include "training/picture_check.h"

namespace biqa {

struct TrainingData {
  std::vector<Sample> train;              ///< human texts only where data.annotation_fraction leaves them
  std::vector<std::vector<Sample>> eval;  ///< of each set its first train.eval_images
  std::int64_t images_per_step = 1;
  std::int64_t epochs = 0;  ///< of the whole run; 0: `steps` was asked for
  std::int64_t steps = 0;   ///< of the whole run
  std::uint64_t seed = 0;
  std::vector<std::size_t> left_out;  ///< bad rows of the training manifest, then of each evaluation set

  /// Every set, in the order of left_out.
  std::vector<const std::vector<Sample>*> sets() const;

  /// Rows of `train` that a step from 1 looks at, [images_per_step]: a function of seed and step alone unless images_per_step
  /// changes as a run goes on. Every epoch has an order of its own; what is left behind its last whole step is not seen
  /// in it.
  std::vector<std::size_t> rows_of_step(std::int64_t step) const;
  /// Place in the orders of all epochs, one behind the other, where `step` ends.
  std::int64_t cursor_after(std::int64_t step) const;
  /// Passes over the training set when `step` ends, with fraction.
  double epochs_after(std::int64_t step) const;
  /// The next step is `step` + 1 and begins at `cursor`, which other images per step may have led to; `steps` as the epochs
  /// then give.
  void go_on_after(std::int64_t step, std::int64_t cursor);
  /// Everything that is read from the manifests, to compare.
  std::string text() const;
  /// Tells `train` from another, 16 hex digits: scores, names and texts in their order, not where the pictures lie.
  std::string fingerprint() const;

 private:
  std::int64_t steps_of_whole_epoch() const {
    return static_cast<std::int64_t>(train.size()) / images_per_step;
  }
  /// Whole steps between a cursor and the end of its epoch.
  std::int64_t steps_left_in_epoch(std::int64_t cursor) const;

  std::int64_t first_step_ = 0, first_cursor_ = 0;
};

/// The rows, with pictures of which only the headers are known: settle_training_data() makes them ready for use. Throws
/// Error for what is missing or bad (manifest.h, run_checks.h). `tell`: this rank warns of rows left out and of images that
/// are in training and evaluation.
TrainingData read_training_data(const Config& config, bool tell);

/// Damaged pictures are an Error, or with data.skip_bad left out, told of and counted. Then annotations are chosen and
/// steps counted.
void settle_training_data(const Config& config, const PictureCheck& pictures, bool tell, TrainingData& data);

}  // namespace biqa
