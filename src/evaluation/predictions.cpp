// SPDX-License-Identifier: Apache-2.0
#include "evaluation/predictions.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "data/response.h"
#include "io/files.h"
#include "io/json.h"
#include "io/json_lines.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json json_of(const std::optional<double>& value) {
  return value ? Json(*value) : Json();
}

}  // namespace

std::string to_json_line(const Prediction& p) {
  Json line{{"id", p.id}, {"set", p.set}, {"score", json_of(p.score)}, {"rating", json_of(p.rating)}};
  if (p.has_caption_rating) line["caption_rating"] = json_of(p.caption_rating);
  if (p.text) line["text"] = *p.text;
  line["human_text"] = p.human_text;
  if (p.caption) line["caption"] = *p.caption;
  if (p.reasoning) line["reasoning"] = *p.reasoning;
  if (p.repeat) line["repeat"] = *p.repeat;
  for (const auto& [key, value] :
       {std::pair("reference", &p.reference), {"type", &p.type}, {"level", &p.level}}) {
    if (!value->empty()) line[key] = *value;
  }
  line["out_of_scale"] = p.out_of_scale;
  if (p.has_caption_rating) line["caption_out_of_scale"] = p.caption_out_of_scale;
  return json_text(line);
}

Prediction parse_prediction(std::string_view line, const std::string& where) {
  const nlohmann::json row = parse_json(line, where);
  const JsonFields fields(row, where);
  Prediction p;
  if (const nlohmann::json* id = fields.find("id"); id != nullptr && id->is_number_integer())
    p.id = id->dump();
  else
    p.id = fields.text("id").value_or("");
  if (p.id.empty()) fields.missing("id");
  p.set = fields.label("set").value_or("");
  p.score = fields.number("score");
  if (!row.contains("rating")) fields.missing("rating");
  p.rating = fields.number("rating");
  p.has_caption_rating = row.contains("caption_rating");
  p.caption_rating = fields.number("caption_rating");
  p.text = fields.text("text");
  p.human_text = fields.text("human_text").value_or("");
  p.caption = fields.text("caption");
  p.reasoning = fields.text("reasoning");
  p.repeat = fields.integer("repeat", 0);
  p.reference = fields.label("reference").value_or("");
  p.type = fields.label("type").value_or("");
  p.level = fields.label("level").value_or("");
  p.out_of_scale = fields.boolean("out_of_scale").value_or(out_of_scale(p.rating));
  p.caption_out_of_scale = fields.boolean("caption_out_of_scale").value_or(out_of_scale(p.caption_rating));
  return p;
}

std::vector<Prediction> read_predictions(const fs::path& file, const std::string& unnamed) {
  const std::string content = read_file(file, std::size_t{4} << 30);
  std::vector<Prediction> predictions;
  std::map<std::tuple<std::string, std::string, std::int64_t>, std::int64_t> line_of_row;
  for_each_json_line(content, [&](std::int64_t number, std::string_view line) {
    const std::string where = fmt::format("{}:{}", file.string(), number);
    Prediction prediction = parse_prediction(line, where);
    if (prediction.set.empty()) prediction.set = unnamed.empty() ? file.stem().string() : unnamed;
    const auto [earlier, is_new] =
        line_of_row.try_emplace({prediction.set, prediction.id, prediction.repeat.value_or(-1)}, number);
    if (!is_new) {
      fail(
          "cannot use {}: id '{}' of set {} is already in line {}; remove one row, or give each sample of an "
          "image its own number as `repeat`",
          where, prediction.id, prediction.set, earlier->second);
    }
    prediction.line = number;
    predictions.push_back(std::move(prediction));
  });
  if (predictions.empty()) {
    fail("cannot use predictions {}: no rows; give one JSON object per line (id, set, score, rating)",
         file.string());
  }
  return predictions;
}

std::string scores_outside_scale(const std::vector<Prediction>& predictions, const std::string& file) {
  const auto is_outside = [](const Prediction& p) { return p.score && !(*p.score >= 1 && *p.score <= 5); };
  const auto first = std::find_if(predictions.begin(), predictions.end(), is_outside);
  if (first == predictions.end()) return "";
  return fmt::format(
      "{} scores of {} lie outside 1 to 5, the first in line {} (id '{}': {}); RMSE and MAE compare them "
      "with "
      "ratings as they are; map the scores to 1..5",
      std::count_if(first, predictions.end(), is_outside), file, first->line, first->id, *first->score);
}

Prediction prediction_of(const Group& group, const Trajectory& answer, const Profile& profile,
                         const std::string& set, bool caption) {
  Prediction p;
  p.id = group.sample_id;
  p.set = set;
  p.score = group.annotation.score;
  p.rating = answer.rating;
  p.has_caption_rating = caption;
  if (caption) p.caption_rating = answer.stage2_rating;
  p.text = answer.text;
  p.human_text = group.annotation.human_text;
  p.caption = answer.caption;
  p.reasoning = answer.reasoning;
  p.out_of_scale = answer_out_of_scale(profile, answer.rating, answer.text);
  p.caption_out_of_scale = caption && answer_out_of_scale(profile, answer.stage2_rating, answer.stage2_text);
  return p;
}

}  // namespace biqa
