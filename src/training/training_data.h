// SPDX-License-Identifier: Apache-2.0
// The manifests of a run, and the rows that each step uses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/manifest.h"
#include "training/picture_check.h"

namespace biqa {

struct TrainingData {
  /// human texts are removed from rows that data.annotation_fraction leaves out
  std::vector<Sample> train;
  std::vector<std::vector<Sample>> eval;  ///< for each set, its first train.eval_images rows without bad ones
  std::int64_t images_per_step = 1;
  std::int64_t epochs = 0;  ///< of the whole run; 0: the run is limited by train.steps
  std::int64_t steps = 0;   ///< of the whole run
  std::uint64_t seed = 0;
  std::vector<std::size_t> left_out;  ///< numbers of bad rows: of the training manifest, then of each set

  /// Every set, in the order of left_out.
  std::vector<const std::vector<Sample>*> sets() const;

  /// The rows of `train` used in `step` (from 1), [images_per_step]. They depend only on the seed and the step,
  /// unless images_per_step was changed when resuming. Each epoch has its own order. Rows that do not fill a whole
  /// step at the end of an epoch are skipped in that epoch.
  std::vector<std::size_t> rows_of_step(std::int64_t step) const;
  /// Further rows for `step`: `count` of them after the first `drawn`, or as many as there are. They come from an order
  /// of their own, without rows_of_step(step), and depend only on the seed and the step. They do not count in
  /// cursor_after().
  std::vector<std::size_t> further_rows(std::int64_t step, std::size_t drawn, std::size_t count) const;
  /// Position where `step` ends, counted in rows from the start of the first epoch.
  std::int64_t cursor_after(std::int64_t step) const;
  /// Passes over the training set when `step` ends, as a fraction.
  double epochs_after(std::int64_t step) const;
  /// Continues with step `step` + 1 at position `cursor`, which may have been reached with another images_per_step.
  /// Recomputes `steps` if the run is limited by epochs.
  void go_on_after(std::int64_t step, std::int64_t cursor);
  /// All data read from the manifests as text, so that ranks can compare it.
  std::string text() const;
  /// Fingerprint of `train`, 16 hex digits: covers scores, names and texts in order, but not the image paths.
  std::string fingerprint() const;

 private:
  std::int64_t steps_of_whole_epoch() const {
    return static_cast<std::int64_t>(train.size()) / images_per_step;
  }
  /// Whole steps between a cursor and the end of its epoch.
  std::int64_t steps_left_in_epoch(std::int64_t cursor) const;

  std::int64_t first_step_ = 0, first_cursor_ = 0;
};

/// Reads the manifests and the headers of their images. Call settle_training_data() before using the rows. Throws Error
/// for missing or bad rows (manifest.h, run_checks.h). `tell`: this rank warns of rows left out.
TrainingData read_training_data(const Config& config, bool tell);

/// Throws Error for damaged images, or with data.skip_bad leaves them out, warns and counts them. Then it shortens
/// evaluation sets, chooses the human texts to use and counts steps. `tell`: this rank also warns of images that are in
/// both training and evaluation, and of missing human texts (text_doubts()).
void settle_training_data(const Config& config, const PictureCheck& pictures, bool tell, TrainingData& data);

}  // namespace biqa
