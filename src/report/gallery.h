// SPDX-License-Identifier: Apache-2.0
// The page of biqa_score: a card for each rated picture.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace biqa {

struct GalleryEntry {
  std::string name;
  std::filesystem::path file;
  std::optional<double> rating;          ///< from the picture
  std::optional<double> caption_rating;  ///< from the caption alone
  std::string caption, reasoning;
  bool parse_ok = true, out_of_scale = false;
  double seconds = 0;
};

/// The parts of the page, in the order in which they are printed. The page grows while the pictures are rated.
/// `caption_only`: ratings from the picture are not shown.
std::string gallery_begin(bool caption_only);
std::string gallery_card(const GalleryEntry& entry, bool caption_only);
/// `answers`: number of cards. `problems`: one text for each picture that could not be read or rated. `program` names what
/// made the page.
std::string gallery_end(std::int64_t answers, const std::vector<std::string>& problems,
                        const std::string& program);

}  // namespace biqa
