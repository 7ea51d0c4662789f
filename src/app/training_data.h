// SPDX-License-Identifier: Apache-2.0
// The manifests of a run, and which of their rows a step looks at.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "actor/pictures.h"
#include "actor/rollout.h"
#include "app/config.h"
#include "data/manifest.h"

namespace biqa {

struct TrainingData {
  std::vector<Sample> train;              ///< human texts only where data.annotation_fraction leaves them
  std::vector<std::vector<Sample>> eval;  ///< of each set its first train.eval_images
  std::int64_t images_per_step = 1, steps_per_epoch = 0;
  std::int64_t steps = 0;  ///< of the whole run
  std::uint64_t seed = 0;

  /// Rows of `train` that step 1, 2, … looks at, [images_per_step]: a function of seed and step alone. Every epoch has an
  /// order of its own; what is left behind its last whole step is not seen in it.
  std::vector<std::size_t> rows_of_step(std::int64_t step) const;
  /// Everything that is read from the manifests, to compare.
  std::string text() const;
};

/// Throws Error for what is missing or bad (manifest.h, run_checks.h). `tell`: this rank warns of rows left out and of
/// images that are in training and evaluation.
TrainingData read_training_data(const Config& config, bool tell);

/// Rows of a manifest for a rollout, with their pictures encoded.
std::vector<RolloutSample> load_samples(PictureEncoder& pictures, const std::vector<Sample>& samples,
                                        const std::vector<std::size_t>& rows);

}  // namespace biqa
