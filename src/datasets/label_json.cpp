// SPDX-License-Identifier: Apache-2.0
// Labels from JSON lists: those of DeQA (and MR-IQA), and those of Q-Reasoning.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "data/unicode.h"
#include "datasets/data_set.h"
#include "datasets/labels.h"
#include "io/json.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Calls `read` for each object of a JSON list. A row that throws Error is a bad row.
template <typename Read>
void read_list(const LabelRequest& request, const fs::path& file, Labels& labels, const Read& read) {
  const json list = read_json(file);
  if (!list.is_array())
    fail("cannot read labels {}: it is not a JSON list; name the right file", file.string());
  std::int64_t number = 0;
  for (const json& element : list) {
    LabelRow row;
    row.place = fmt::format("{}, row {}", file.string(), ++number);
    row.set = request.set.name;
    try {
      read(JsonFields(element, row.place), row);
      if (row.id.empty() || row.image.empty())
        fail("cannot read {}: its name is empty; correct it", row.place);
    } catch (const Error& problem) {
      row.problem = fmt::format("{}; --skip-bad leaves the row out", problem.what());
    }
    labels.rows.push_back(std::move(row));
  }
}

std::string needed_text(const JsonFields& fields, const std::string& key) {
  const std::optional<std::string> text = fields.text(key);
  if (!text) fields.missing(key);
  return *text;
}

double needed_number(const JsonFields& fields, const std::string& key) {
  const std::optional<double> number = fields.number(key);
  if (!number) fields.missing(key);
  return *number;
}

// ---- DeQA ----

/// The set whose images lie below this folder in DeQA's lists; otherwise the folder's name.
std::string set_of_folder(const std::string& folder) {
  for (const DataSet& set : data_sets())
    if (!set.deqa_folder.empty() && lower_case(set.deqa_folder) == lower_case(folder)) return set.name;
  return lower_case(folder);
}

void read_deqa_row(const JsonFields& fields, LabelRow& row) {
  const std::string id = needed_text(fields, "id");
  row.id = id.substr(0, id.rfind("->"));
  row.image = needed_text(fields, "image");
  if (const std::size_t slash = row.image.find('/'); slash != std::string::npos)
    row.set = set_of_folder(row.image.substr(0, slash));
  row.raw = needed_number(fields, "gt_score");
  row.score = fields.number("gt_score_norm");
  if (!row.score) row.score = fields.number("normalized_score");
  if (!row.score) {
    fail(
        "cannot read {}: neither gt_score_norm nor normalized_score is there, and the range of gt_score is "
        "unknown; "
        "add one of them",
        fields.where());
  }
  row.std = fields.number("std");
}

// ---- Q-Reasoning ----

constexpr const char* kTrainList = "mixed_cot.json";
constexpr const char* kTestList = "cot_reasoning_test.json";

bool wants(const LabelRequest& request, const std::string& split) {
  return request.splits.empty() ||
         std::find(request.splits.begin(), request.splits.end(), split) != request.splits.end();
}

std::vector<fs::path> q_reasoning_files(const LabelRequest& request) {
  if (request.labels) return {named_label_file(request)};
  std::vector<fs::path> files;
  std::vector<std::string> names;
  if (wants(request, "train")) names.emplace_back(kTrainList);
  if (wants(request, "test")) names.emplace_back(kTestList);
  for (const std::string& name : names) {
    std::error_code ignored;
    if (fs::exists(request.root / name, ignored)) files.push_back(request.root / name);
  }
  if (names.empty()) {
    fail_usage("flag --split: Q-Reasoning has no validation split; give train or test");
  }
  // With one list wanted, or with both, every list must be there.
  if (files.size() != names.size()) no_label_file(request, names);
  return files;
}

/// A text field: with tags, as an object with an answer, or blank. `untagged`: there is text, but no translation.
std::string translation_of(const JsonFields& fields, const std::string& key, bool& untagged) {
  const json* value = fields.find(key);
  if (value == nullptr) return "";
  if (value->is_object()) {
    const std::optional<JsonFields> inner = fields.object(key);
    return std::string(without_blanks(inner->text("answer").value_or("")));
  }
  const std::string text = needed_text(fields, key);
  constexpr std::string_view kOpen = "<translation>", kClose = "</translation>";
  const std::size_t open = text.find(kOpen);
  const std::size_t close = open == std::string::npos ? open : text.find(kClose, open);
  if (close == std::string::npos) {
    untagged = !without_blanks(text).empty();
    return "";
  }
  const std::size_t begin = open + kOpen.size();
  return std::string(without_blanks(std::string_view(text).substr(begin, close - begin)));
}

void read_q_reasoning_row(const JsonFields& fields, LabelRow& row, std::vector<std::string>& notes,
                          std::map<std::string, std::int64_t>& nulls) {
  row.id = row.image = needed_text(fields, "image");
  row.score = fields.number("normalized_score");
  row.split = row.score ? "train" : "test";
  // In annotated training rows, `quality` is the annotators' mean and `ori_score` the score of KonIQ.
  const std::optional<double> original = fields.number("ori_score");
  row.raw = original ? *original : needed_number(fields, "quality");
  struct Part {
    const char* key;
    std::string* text;
  };
  for (const Part& part : {Part{"description", &row.description}, Part{"good_aspect", &row.good},
                           Part{"bad_aspect", &row.bad}}) {
    bool untagged = false;
    if (!fields.has(part.key)) ++nulls[part.key];
    *part.text = translation_of(fields, part.key, untagged);
    if (untagged)
      notes.push_back(fmt::format("{} of {} left out: it has no <translation>", part.key, row.id));
  }
}

}  // namespace

Labels read_deqa_labels(const LabelRequest& request) {
  if (!request.labels) {
    fail_usage("flag --labels is missing: name one list of DeQA, such as KONIQ/metas/test_koniq_2k.json");
  }
  const fs::path file = named_label_file(request);
  Labels labels;
  labels.file = file.string();
  labels.score_name = "gt_score";
  read_list(request, file, labels, read_deqa_row);
  // Its files say by their names what they hold.
  const std::string name = lower_case(file.filename().string());
  for (const char* split : {"train", "val", "test"}) {
    const bool named = name.starts_with(fmt::format("{}_", split)) ||
                       name.find(fmt::format("_{}_", split)) != std::string::npos;
    if (!named) continue;
    labels.has_splits = true;
    for (LabelRow& row : labels.rows) row.split = split;
    break;
  }
  return labels;
}

Labels read_q_reasoning_labels(const LabelRequest& request) {
  Labels labels;
  std::map<std::string, std::int64_t> nulls;  // by key
  for (const fs::path& file : q_reasoning_files(request)) {
    labels.file += (labels.file.empty() ? "" : " and ") + file.string();
    read_list(request, file, labels, [&](const JsonFields& fields, LabelRow& row) {
      read_q_reasoning_row(fields, row, labels.notes, nulls);
    });
  }
  for (const auto& [key, count] : nulls)
    labels.notes.push_back(fmt::format("texts: {} is null or absent in {} rows", key, with_commas(count)));
  labels.score_name = "quality";
  labels.has_splits = true;
  return labels;
}

}  // namespace biqa
