// SPDX-License-Identifier: Apache-2.0
// LIVE in the Wild: names, scores and deviations are three variables in three files, in one order.
#include <algorithm>
#include <regex>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "data/unicode.h"
#include "datasets/data_set.h"
#include "datasets/labels.h"
#include "io/mat_file.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNames = "AllImages_release";
constexpr const char* kScores = "AllMOS_release";
constexpr const char* kDeviations = "AllStdDev_release";

fs::path file_of(const fs::path& folder, const char* variable) {
  return folder / fmt::format("{}.mat", variable);
}

/// The folder with the three files. Nothing if the labels are a table.
std::optional<fs::path> folder_of(const LabelRequest& request) {
  std::error_code ignored;
  if (request.labels) {
    const fs::path given = named_label_file(request);
    if (fs::is_directory(given, ignored)) return given;
    if (is_mat_file(given)) return given.parent_path();
    return std::nullopt;
  }
  for (const char* folder : {"Data", ".", "data"})
    if (fs::exists(file_of(request.root / folder, kNames), ignored)) return request.root / folder;
  no_label_file(request, {fmt::format("Data/{}.mat", kNames)});
}

void check_length(const fs::path& folder, const char* variable, std::size_t length, std::size_t names) {
  if (length == names) return;
  fail("cannot use {}: {} has {} values, but {} has {} names; get the files again",
       file_of(folder, variable).string(), variable, length, kNames, names);
}

Labels read_three_files(const fs::path& folder) {
  const std::vector<std::string> names = read_mat_texts(file_of(folder, kNames), kNames);
  const std::vector<double> scores = read_mat_numbers(file_of(folder, kScores), kScores);
  check_length(folder, kScores, scores.size(), names.size());
  std::vector<double> deviations;
  std::error_code ignored;
  if (fs::exists(file_of(folder, kDeviations), ignored)) {
    deviations = read_mat_numbers(file_of(folder, kDeviations), kDeviations);
    check_length(folder, kDeviations, deviations.size(), names.size());
  }
  Labels labels;
  labels.file = file_of(folder, kScores).string();
  labels.score_name = kScores;
  for (std::size_t i = 0; i < names.size(); ++i) {
    LabelRow row;
    row.place = fmt::format("{}, element {}", labels.file, i + 1);
    row.set = "livewild";
    row.id = row.image = std::string(without_blanks(names[i]));
    row.raw = scores[i];
    if (!deviations.empty()) row.std = deviations[i];
    const bool usable = std::isfinite(row.raw) && is_valid_utf8(row.id) && !row.id.empty();
    if (!usable) {
      row.problem = fmt::format(
          "cannot use {}: name '{}' and score {} are not usable; leave the row out with "
          "--skip-bad",
          row.place, repaired_utf8(row.id), row.raw);
    }
    labels.rows.push_back(std::move(row));
  }
  return labels;
}

}  // namespace

Labels read_livewild_labels(const LabelRequest& request) {
  const std::optional<fs::path> folder = folder_of(request);
  Labels labels = folder ? read_three_files(*folder) : read_table_labels(request);
  if (request.with_tutorial) return labels;
  static const std::regex kTutorial("(.*/)?t[1-7]\\.[a-z]+", std::regex::icase);
  const auto first = std::stable_partition(labels.rows.begin(), labels.rows.end(), [](const LabelRow& row) {
    return row.id.size() > kLongestName || !std::regex_match(row.id, kTutorial);
  });
  if (const auto left_out = labels.rows.end() - first; left_out > 0) {
    labels.notes.push_back(fmt::format("{} tutorial images left out; --with-tutorial keeps them", left_out));
    labels.rows.erase(first, labels.rows.end());
  }
  return labels;
}

}  // namespace biqa
