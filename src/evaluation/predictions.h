// SPDX-License-Identifier: Apache-2.0
// Predictions: what a model answered about images with human scores, one JSON object per line. biqa_eval writes them and
// evaluates files that others wrote.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/prompts.h"
#include "data/trajectory.h"

namespace biqa {

struct Prediction {
  std::string id, set;
  std::int64_t line = 0;                 ///< of the file that was read, from 1; 0: of none
  std::optional<double> score;           ///< human score; rows without one are not evaluated
  std::optional<double> rating;          ///< from the image; nullopt: the answer had none
  std::optional<double> caption_rating;  ///< from the caption alone
  bool has_caption_rating = false;       ///< whether the condition `caption` was asked for
  std::optional<std::string> text;       ///< the whole answer; nullopt: unknown, which is not an empty answer
  std::string human_text;                ///< empty if people wrote none
  std::optional<std::string> caption, reasoning;
  std::optional<std::int64_t> repeat;  ///< number of the sample, from 0; nullopt: greedy decoding
  // Of the manifest; empty if absent.
  std::string reference, type, level;
  /// Whether the answers count as out of scale (answer_out_of_scale). Where a file does not say so, the ratings decide.
  bool out_of_scale = false, caption_out_of_scale = false;
};

/// One line without line end. `caption_rating` is written only with `has_caption_rating`. Optional columns and `text`
/// without a value are left out.
std::string to_json_line(const Prediction& prediction);

/// Reads one line. Throws Error that begins with `where` and names the key.
Prediction parse_prediction(std::string_view line, const std::string& where);

/// Reads a file in the order of its lines. A row without `set` belongs to the set named like the file without
/// extension, or to `unnamed` if that is not empty. Throws Error with file:line for a line that is not such an object, for a missing `id` or `rating` (null
/// is a value), and for a row (set, id, repeat) that occurs twice. Also throws if the file has no row.
std::vector<Prediction> read_predictions(const std::filesystem::path& file, const std::string& unnamed = "");

/// The set of rows without `set` if several files are compared. If each file gave its name, rows of different files
/// would be in different sets.
inline constexpr const char* kCommonSet = "all";

/// A warning with the number of human scores outside the scale 1..5 of the ratings; empty if there are none. `file`
/// names the file that was read.
std::string scores_outside_scale(const std::vector<Prediction>& predictions, const std::string& file);

/// The prediction of one completion of a group. `caption`: its second stage was run.
Prediction prediction_of(const Group& group, const Trajectory& answer, const Profile& profile,
                         const std::string& set, bool caption);

}  // namespace biqa
