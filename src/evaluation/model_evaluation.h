// SPDX-License-Identifier: Apache-2.0
// Lets a model answer about the images of manifests, on all ranks of a job, and collects its predictions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "actor/pictures.h"
#include "actor/rollout.h"
#include "comm/communicator.h"
#include "core/stop_signals.h"
#include "data/manifest.h"
#include "evaluation/predictions.h"
#include "io/append_file.h"

namespace biqa {

/// The file with the predictions of an unfinished evaluation. It is beside the file that the evaluation will write. A
/// later run with the same settings continues from it. One rank uses it.
class EvaluationProgress {
 public:
  /// `target`.part; `settings`: everything that the predictions depend on. Throws Error if the file belongs to other
  /// settings.
  EvaluationProgress(const std::filesystem::path& target, std::uint64_t settings);

  /// Predictions that an earlier run has written, by set and id.
  const std::vector<Prediction>& earlier() const { return earlier_; }
  /// Adds all predictions of one image.
  void add(const std::vector<Prediction>& predictions);
  /// Removes the file, after the target has been written.
  void remove() const;

 private:
  std::filesystem::path file_;
  std::vector<Prediction> earlier_;
  std::optional<AppendFile> log_;
};

struct UnreadableImage {
  std::size_t row = 0;  ///< of the samples
  std::string message;
};

/// The answers to all images, on the first rank.
struct ModelPredictions {
  /// in the order of the samples, then of the repeats; images that cannot be read are missing
  std::vector<Prediction> predictions;
  std::vector<UnreadableImage> unreadable;
  std::size_t images = 0;  ///< answered or unreadable
};

struct ModelEvaluation {
  Communicator& world;
  const StopSignals& signals;
  PictureEncoder& pictures;
  Rollout& rollout;
  /// group_size: answers per image; stage2: whether the condition `caption` is evaluated
  RolloutOptions options;
  std::size_t batch;                      ///< images per rank at a time
  std::function<void(std::size_t)> told;  ///< called on the first rank with the number of images so far

  /// Collective: every rank passes the same samples, whose (set, id) are unique. `progress` is used on the first rank;
  /// nullptr: nothing is kept. Image i of those that are left belongs to rank i modulo the number of ranks. A prediction
  /// depends only on image, model and options, so the result does not depend on ranks, batch and threads. After a stop
  /// request the result is incomplete.
  ModelPredictions run(const std::vector<Sample>& samples, EvaluationProgress* progress) const;
};

/// Throws Error (usage) naming an id that occurs twice in a set.
void require_unique_images(const std::vector<Sample>& samples);

}  // namespace biqa
