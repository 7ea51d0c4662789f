// SPDX-License-Identifier: Apache-2.0
// Manifests list images with human scores and optional human texts. One JSON object per line: {"id", "image", "score",
// "raw_score"?, "set"?, "reference"?, "type"?, "level"?, "text"?: {"description", "good", "bad"}, "completion"?}. Other keys are ignored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/annotation.h"
#include "io/image.h"

namespace biqa {

struct Sample {
  std::string id;
  std::int64_t line = 0;            ///< of the manifest, from 1
  std::filesystem::path image;      ///< absolute, or relative to the working directory
  ImageSize size;                   ///< of the image file; 0 x 0 if images were not checked
  double score = 0;                 ///< human score on 1..5, higher is better
  std::optional<double> raw_score;  ///< in the data set's own units
  /// name of the data set; without one, the manifest's file name without extension
  std::string set;
  std::string description, good, bad;  ///< parts of the human text; empty if absent
  /// reference picture, kind and degree of distortion, for the tables of biqa_eval; empty if absent
  std::string reference, type, level;
  std::string completion;  ///< a completion to learn from (objective.loss: sft); empty if absent

  /// description, good and bad with one space between the parts that are not blank; empty without human text.
  std::string human_text() const;
  /// The fields of this row that rewards and evaluations use.
  Annotation annotation() const;
};

/// A row that was left out.
struct BadRow {
  std::int64_t line = 0;  ///< from 1
  std::string reason;     ///< `FILE:LINE: what is wrong; what to do`
};

/// Reads a manifest in the order of its rows. Throws Error with file:line for a line that is not such an object, a
/// score that is not a number from 1 to 5, or a repeated id. With `check_images`, also for an image that is missing,
/// unreadable or has a header that read_image would refuse. With `skip_bad`, bad rows are left out and listed in `bad`
/// instead. Throws Error if no row is left.
std::vector<Sample> read_manifest(const std::filesystem::path& file, bool skip_bad = false,
                                  std::vector<BadRow>* bad = nullptr, bool check_images = true);

/// Reads only id and image of each row; scores and texts may be wrong or absent. Bad rows are left out and listed in
/// `bad`. Throws Error if the manifest has no rows.
std::vector<Sample> read_pictures(const std::filesystem::path& file, std::vector<BadRow>& bad);

/// Samples of `evaluation` that `training` also contains.
struct Overlap {
  std::vector<std::string> ids;     ///< same id
  std::vector<std::string> images;  ///< same image file after resolving links, with any id
  bool any() const { return !ids.empty() || !images.empty(); }
};
/// Called before each run, because a published test file contained a training image.
Overlap find_overlap(std::span<const Sample> training, std::span<const Sample> evaluation);
/// One sentence for a warning: `evaluation` shares images with `training`.
std::string overlap_text(const std::filesystem::path& evaluation, const Overlap& overlap,
                         const std::filesystem::path& training);

}  // namespace biqa
