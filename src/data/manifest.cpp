// SPDX-License-Identifier: Apache-2.0
#include "data/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "core/error.h"
#include "io/files.h"
#include "io/json.h"
#include "io/json_lines.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

bool is_blank(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isspace(c) != 0; });
}

std::string required_text(const JsonFields& fields, const std::string& key) {
  std::optional<std::string> text = fields.text(key);
  if (!text) fields.missing(key);
  if (is_blank(*text)) fields.refuse(key, "text that is not blank");
  return *std::move(text);
}

// The image size in the header. Throws Error with `where` if a run could not read the image.
ImageSize check_picture(const fs::path& image, const std::string& where) {
  std::error_code problem;
  const fs::file_status status = fs::status(image, problem);
  if (!fs::exists(status)) {
    fail(
        "cannot use {}: image {} does not exist; correct the path (relative to the manifest), or remove the "
        "row (a run skips it with data.skip_bad: true)",
        where, image.string());
  }
  if (!fs::is_regular_file(status)) {
    fail("cannot use {}: image {} is not a file; correct the path", where, image.string());
  }
  try {
    return read_image_size(image);
  } catch (const Error& refused) {
    fail("cannot use {}: {}", where, refused.what());
  }
}

Sample parse_row(std::string_view line, const fs::path& manifest, const std::string& where,
                 bool picture_only) {
  const nlohmann::json row = parse_json(line, where);
  const JsonFields fields(row, where);
  Sample sample;
  sample.id = required_text(fields, "id");
  sample.image = manifest.parent_path() / fs::path(required_text(fields, "image"));
  if (picture_only) return sample;
  const std::optional<double> score = fields.number("score");
  if (!score) fields.missing("score");
  // Written so that a NaN fails too.
  if (!(*score >= 1.0 && *score <= 5.0))
    fields.refuse("score", "a number from 1 to 5 (map the set's own scale to that)");
  sample.score = *score;
  sample.raw_score = fields.number("raw_score");
  sample.set = fields.text("set").value_or(manifest.stem().string());
  sample.reference = fields.label("reference").value_or("");
  sample.type = fields.label("type").value_or("");
  sample.level = fields.label("level").value_or("");
  if (const std::optional<JsonFields> text = fields.object("text")) {
    sample.description = text->text("description").value_or("");
    sample.good = text->text("good").value_or("");
    sample.bad = text->text("bad").value_or("");
  }
  sample.completion = fields.text("completion").value_or("");
  return sample;
}

struct RowRules {
  bool picture_only, skip_bad, check_images;
};

std::vector<Sample> read_rows(const fs::path& file, const RowRules& rules, std::vector<BadRow>* bad,
                              std::int64_t& lines) {
  const std::string content = read_file(file);
  std::vector<Sample> samples;
  std::unordered_map<std::string, std::int64_t> line_of_id;
  lines = for_each_json_line(content, [&](std::int64_t number, std::string_view line) {
    const std::string where = fmt::format("{}:{}", file.string(), number);
    try {
      Sample sample = parse_row(line, file, where, rules.picture_only);
      if (const auto earlier = line_of_id.find(sample.id); earlier != line_of_id.end()) {
        fail("cannot use {}: id '{}' is already in line {}; remove one row or give it another id", where,
             sample.id, earlier->second);
      }
      if (rules.check_images) sample.size = check_picture(sample.image, where);
      sample.line = number;
      line_of_id.emplace(sample.id, number);
      samples.push_back(std::move(sample));
    } catch (const Error& problem) {
      if (!rules.skip_bad) throw;
      if (bad != nullptr) bad->push_back({number, problem.what()});
    }
  });
  return samples;
}

}  // namespace

std::string Sample::human_text() const {
  std::string text;
  for (const std::string* part : {&description, &good, &bad}) {
    if (is_blank(*part)) continue;
    if (!text.empty()) text += ' ';
    text += *part;
  }
  return text;
}

Annotation Sample::annotation() const {
  return {score, human_text()};
}

std::vector<Sample> read_manifest(const fs::path& file, bool skip_bad, std::vector<BadRow>* bad,
                                  bool check_images) {
  std::int64_t lines = 0;
  std::vector<Sample> samples = read_rows(file, {false, skip_bad, check_images}, bad, lines);
  if (samples.empty()) {
    fail(
        "cannot use manifest {}: {}; give one JSON object per line (id, image, score)", file.string(),
        lines == 0 ? std::string("it is empty") : fmt::format("none of its {} lines is a usable row", lines));
  }
  return samples;
}

std::vector<Sample> read_pictures(const fs::path& file, std::vector<BadRow>& bad) {
  std::int64_t lines = 0;
  std::vector<Sample> samples = read_rows(file, {true, true, true}, &bad, lines);
  if (samples.empty() && bad.empty()) {
    fail("cannot use manifest {}: it is empty; give one JSON object per line (id, image)", file.string());
  }
  return samples;
}

Overlap find_overlap(std::span<const Sample> training, std::span<const Sample> evaluation) {
  const auto real_path = [](const fs::path& path) {
    std::error_code problem;
    const fs::path real = fs::weakly_canonical(path, problem);
    return (problem ? path.lexically_normal() : real).string();
  };
  std::unordered_set<std::string> ids, images;
  for (const Sample& sample : training) {
    ids.insert(sample.id);
    images.insert(real_path(sample.image));
  }
  Overlap overlap;
  for (const Sample& sample : evaluation) {
    if (ids.contains(sample.id)) overlap.ids.push_back(sample.id);
    const std::string image = real_path(sample.image);
    if (images.contains(image)) overlap.images.push_back(image);
  }
  return overlap;
}

std::string overlap_text(const fs::path& evaluation, const Overlap& overlap, const fs::path& training) {
  return fmt::format(
      "{} shares {} ids and {} image files with {}, so its metrics also cover images that were seen in "
      "training",
      evaluation.string(), overlap.ids.size(), overlap.images.size(), training.string());
}

}  // namespace biqa
