// SPDX-License-Identifier: Apache-2.0
// Manifests: which images there are, their human scores and, where people wrote them, their texts. One JSON
// object per line: {"id", "image", "score", "raw_score"?, "set"?, "text"?: {"description", "good", "bad"},
// "completion"?}; other keys are ignored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/image.h"

namespace biqa {

struct Sample {
  std::string id;
  std::int64_t line = 0;  ///< of the manifest, from 1
  std::filesystem::path
      image;         ///< absolute, or as reachable from the working directory as the manifest itself
  ImageSize size;    ///< of the picture as stored; 0 x 0 where images were not checked
  double score = 0;  ///< human score on 1..5, higher is better
  std::optional<double> raw_score;     ///< in the set's own units
  std::string set;                     ///< name of the data set; the manifest's stem where a row has none
  std::string description, good, bad;  ///< human text by part; empty where there is none
  std::string completion;  ///< an answer to learn from (objective.loss sft); empty where there is none

  /// description, good and bad with one space between the parts that are not blank; empty without human text.
  std::string human_text() const;
};

/// A row that was left out.
struct BadRow {
  std::int64_t line = 0;  ///< from 1
  std::string reason;     ///< `FILE:LINE: what is wrong; what to do`
};

/// Reads a manifest in the order of its rows. Throws Error with file:line on a line that is not such an
/// object, a score that is no number on 1..5, an id given twice, with `check_images` an image that is missing, unreadable or
/// whose header read_image would refuse; and when no row is left. With `skip_bad` bad rows are left out and listed in `bad` (where given).
std::vector<Sample> read_manifest(const std::filesystem::path& file, bool skip_bad = false,
                                  std::vector<BadRow>* bad = nullptr, bool check_images = true);

/// The pictures of a manifest whose scores and texts don't matter (and may be wrong or absent): only id and image are read.
/// Bad rows are left out and listed. Throws Error when there is no row at all.
std::vector<Sample> read_pictures(const std::filesystem::path& file, std::vector<BadRow>& bad);

/// Samples of `evaluation` that `training` holds too.
struct Overlap {
  std::vector<std::string> ids;     ///< same id
  std::vector<std::string> images;  ///< same image file (after resolving links), whatever the id
  bool any() const { return !ids.empty() || !images.empty(); }
};
/// A published test file repeated a training image, so this is asked before each run.
Overlap find_overlap(std::span<const Sample> training, std::span<const Sample> evaluation);

}  // namespace biqa
