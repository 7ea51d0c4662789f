// SPDX-License-Identifier: Apache-2.0
#include "evaluation/report_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <vector>

#include "core/csv.h"
#include "io/json.h"

namespace biqa {
namespace {

using Json = nlohmann::ordered_json;

// The columns of each kind of row, in order. Calls visit(name, value).

template <typename Visit>
void for_each_field(const ReportRow& r, Visit&& visit) {
  const Agreement& a = r.agreement;
  visit("set", r.set);
  visit("condition", r.condition);
  visit("decoding", r.decoding);
  visit("n", a.n);
  visit("parse_failures", a.parse_failures);
  visit("out_of_scale", a.out_of_scale);
  visit("plcc", a.plcc);
  visit("srcc", a.srcc);
  visit("krcc", a.krcc);
  visit("rmse", a.rmse);
  visit("mae", a.mae);
  visit("plcc_in_scale", a.plcc_in_scale);
  visit("srcc_in_scale", a.srcc_in_scale);
  visit("rmse_in_scale", a.rmse_in_scale);
  visit("srcc_all", a.srcc_all);
  visit("plcc_fit4", r.fit4.plcc);
  visit("rmse_fit4", r.fit4.rmse);
  visit("plcc_fit5", r.fit5.plcc);
  visit("rmse_fit5", r.fit5.rmse);
  visit("plcc_ci", r.plcc_ci);
  visit("srcc_ci", r.srcc_ci);
  visit("distinct_ratings", a.distinct_ratings);
  visit("leak_rate", r.leak_rate);
  visit("caption_words", r.caption_words);
  visit("reasoning_words", r.reasoning_words);
  visit("contradiction_mean", r.contradiction_mean);
  visit("contradiction_share", r.contradiction_share);
  visit("repeats", r.repeats);
  visit("instability", r.instability);
  visit("plcc_repeats", r.plcc_repeats);
  visit("srcc_repeats", r.srcc_repeats);
}

template <typename Visit>
void for_each_field(const TextFigures& t, Visit&& visit) {
  visit("n", t.n);
  visit("without_text", t.without_text);
  visit("distinct_texts", t.distinct_texts);
  visit("rouge1_p", t.rouge1_p);
  visit("rouge1_r", t.rouge1_r);
  visit("rouge1_f", t.rouge1_f);
  visit("rougel_p", t.rougel_p);
  visit("rougel_r", t.rougel_r);
  visit("rougel_f", t.rougel_f);
  visit("similarity", t.similarity);
  visit("polarity", t.polarity);
  visit("aspects", t.aspects);
  visit("repetition", t.repetition);
  visit("length_ratio", t.length_ratio);
}

template <typename Visit>
void for_each_field(const ReportGroup& g, Visit&& visit) {
  visit("set", g.set);
  visit("condition", g.condition);
  visit("decoding", g.decoding);
  visit("by", g.by);
  visit("value", g.value);
  visit("n", g.n);
  visit("plcc", g.plcc);
  visit("srcc", g.srcc);
}

template <typename Visit>
void for_each_field(const ReportGroupMean& g, Visit&& visit) {
  visit("set", g.set);
  visit("condition", g.condition);
  visit("decoding", g.decoding);
  visit("by", g.by);
  visit("groups", g.groups);
  visit("plcc", g.plcc);
  visit("srcc", g.srcc);
}

template <typename Visit>
void for_each_field(const ReportGap& g, Visit&& visit) {
  visit("set", g.set);
  visit("decoding", g.decoding);
  visit("plcc_gap", g.plcc_gap);
  visit("plcc_gap_ci", g.plcc_gap_ci);
  visit("srcc_gap", g.srcc_gap);
  visit("srcc_gap_ci", g.srcc_gap_ci);
}

template <typename Visit>
void for_each_field(const ReportMean& sets, Visit&& visit) {
  visit("condition", sets.condition);
  visit("decoding", sets.decoding);
  visit("sets", sets.sets);
  visit("plcc", sets.plcc);
  visit("srcc", sets.srcc);
  visit("krcc", sets.krcc);
  visit("rmse", sets.rmse);
  visit("mae", sets.mae);
  visit("plcc_in_scale", sets.plcc_in_scale);
  visit("srcc_in_scale", sets.srcc_in_scale);
  visit("rmse_in_scale", sets.rmse_in_scale);
  visit("srcc_all", sets.srcc_all);
  visit("plcc_fit4", sets.plcc_fit4);
  visit("rmse_fit4", sets.rmse_fit4);
  visit("plcc_fit5", sets.plcc_fit5);
  visit("rmse_fit5", sets.rmse_fit5);
}

template <typename Visit>
void for_each_field(const ComparisonRow& r, Visit&& visit) {
  visit("set", r.set);
  visit("condition", r.condition);
  visit("decoding", r.decoding);
  visit("n", r.n);
  visit("left_out", r.left_out);
  visit("plcc", r.plcc);
  visit("srcc", r.srcc);
  visit("rmse", r.rmse);
  visit("mae", r.mae);
  visit("closer_a", r.closer_a);
  visit("closer_b", r.closer_b);
  visit("equal", r.equal);
  visit("sign_test_p", r.sign_test_p);
}

Json json_of(double value) {
  return number_or_null(value);
}

void put(Json& object, const std::string& name, const std::string& value) {
  object[name] = value;
}
void put(Json& object, const std::string& name, std::int64_t value) {
  object[name] = value;
}
void put(Json& object, const std::string& name, double value) {
  object[name] = json_of(value);
}
void put(Json& object, const std::string& name, const Interval& value) {
  const bool is_defined = std::isfinite(value.low) && std::isfinite(value.high);
  object[name] = is_defined ? Json{value.low, value.high} : Json();
}
void put(Json& object, const std::string& name, const ChanceFigure& figure) {
  object[name] = json_of(figure.value);
  object[name + "_chance"] = json_of(figure.chance);
  object[name + "_excess"] = json_of(figure.excess());
}
void put(Json& object, const std::string& name, const ComparedFigure& figure) {
  object[name + "_a"] = json_of(figure.a);
  object[name + "_b"] = json_of(figure.b);
  object[name + "_difference"] = json_of(figure.difference);
  put(object, name + "_difference_ci", figure.difference_ci);
}

template <typename Record>
Json object_of(const Record& record) {
  Json object = Json::object();
  for_each_field(record, [&](const char* name, const auto& value) { put(object, name, value); });
  return object;
}

Json object_of_row(const ReportRow& row) {
  Json object = object_of(row);
  object["fit4"] = row.fit4.parameters.empty() ? Json() : Json(row.fit4.parameters);
  object["fit5"] = row.fit5.parameters.empty() ? Json() : Json(row.fit5.parameters);
  object["texts"] = row.texts ? object_of(*row.texts) : Json();
  return object;
}

template <typename Record>
Json array_of(const std::vector<Record>& records) {
  Json array = Json::array();
  for (const Record& record : records) array.push_back(object_of(record));
  return array;
}

/// A JSON object as the fields of a CSV line: names or values.
void flatten(const Json& object, const std::string& prefix, std::vector<std::string>& names,
             std::vector<std::string>& values) {
  for (const auto& [key, value] : object.items()) {
    names.push_back(prefix + key);
    if (value.is_string()) {
      values.push_back(csv_quoted(value.get<std::string>()));
    } else {
      values.push_back(value.is_null() ? "" : value.dump());
    }
  }
}

/// An interval as two columns, so that every row of a block has the same columns.
Json with_ends(const Json& object) {
  Json result = Json::object();
  for (const auto& [key, value] : object.items()) {
    if (key.ends_with("_ci") || key.ends_with("_repeats")) {
      result[key + "_low"] = value.is_null() ? Json() : value[0];
      result[key + "_high"] = value.is_null() ? Json() : value[1];
    } else {
      result[key] = value;
    }
  }
  return result;
}

void add_block(std::string& csv, const std::vector<Json>& objects) {
  if (objects.empty()) return;
  if (!csv.empty()) csv += '\n';
  for (std::size_t i = 0; i < objects.size(); ++i) {
    std::vector<std::string> names, values;
    flatten(with_ends(objects[i]), "", names, values);
    if (i == 0) csv += fmt::format("{}\n", fmt::join(names, ","));
    csv += fmt::format("{}\n", fmt::join(values, ","));
  }
}

template <typename Record>
void add_block_of(std::string& csv, const std::vector<Record>& records) {
  std::vector<Json> objects;
  objects.reserve(records.size());
  for (const Record& record : records) objects.push_back(object_of(record));
  add_block(csv, objects);
}

}  // namespace

std::string report_json(const Report& report) {
  Json document = Json::object();
  document["rows"] = Json::array();
  for (const ReportRow& row : report.rows) document["rows"].push_back(object_of_row(row));
  document["groups"] = array_of(report.groups);
  document["group_means"] = array_of(report.group_means);
  document["gaps"] = array_of(report.gaps);
  document["mean"] = array_of(report.means);
  document["fits"] = {{"fit4", kFit4Formula}, {"fit5", kFit5Formula}};
  return json_text(document, 2) + "\n";
}

std::string report_csv(const Report& report) {
  std::vector<Json> rows;
  for (const ReportRow& row : report.rows) {
    Json object = object_of(row);
    const Json texts = object_of(row.texts.value_or(TextFigures{}));
    for (const auto& [key, value] : texts.items()) {
      if (key == "n")
        object["texts_n"] = row.texts ? value : Json();
      else
        object[key] = value;
    }
    rows.push_back(std::move(object));
  }
  std::string csv;
  add_block(csv, rows);
  add_block_of(csv, report.groups);
  add_block_of(csv, report.group_means);
  add_block_of(csv, report.gaps);
  add_block_of(csv, report.means);
  return csv;
}

std::string comparison_json(const std::vector<ComparisonRow>& rows, const std::string& a,
                            const std::string& b) {
  const Json document{{"a", a}, {"b", b}, {"comparison", array_of(rows)}};
  return json_text(document, 2) + "\n";
}

std::string comparison_csv(const std::vector<ComparisonRow>& rows) {
  std::string csv;
  add_block_of(csv, rows);
  return csv;
}

std::string like_pyiqa(const Report& report) {
  std::vector<std::string> sets, lines;
  for (const ReportRow& row : report.rows) {
    if (std::find(sets.begin(), sets.end(), row.set) == sets.end()) sets.push_back(row.set);
  }
  std::vector<std::string> head{"Metric name"};
  for (const std::string& set : sets) {
    head.push_back(csv_quoted(set + "(PLCC/SRCC/KRCC)"));
    head.push_back(csv_quoted(set + "(biqa: PLCC/SRCC/KRCC)"));
  }
  std::string csv = fmt::format("{}\n", fmt::join(head, ","));
  // The decoding is named only if there are both.
  const bool is_mixed = std::any_of(report.rows.begin(), report.rows.end(), [&](const ReportRow& row) {
    return row.decoding != report.rows.front().decoding;
  });
  for (const auto& kind :
       {std::pair("image", "greedy"), {"image", "sampled"}, {"caption", "greedy"}, {"caption", "sampled"}}) {
    const char* const condition = kind.first;
    const char* const decoding = kind.second;
    std::vector<std::string> cells{is_mixed ? fmt::format("biqa {} {}", condition, decoding)
                                            : fmt::format("biqa {}", condition)};
    bool any = false;
    for (const std::string& set : sets) {
      const auto row = std::find_if(report.rows.begin(), report.rows.end(), [&](const ReportRow& candidate) {
        return candidate.set == set && candidate.condition == condition && candidate.decoding == decoding;
      });
      any = any || row != report.rows.end();
      const Agreement figures = row == report.rows.end() ? Agreement{} : row->agreement;
      cells.push_back(fmt::format("{:.4f}/{:.4f}/{:.4f}", std::abs(figures.plcc), std::abs(figures.srcc),
                                  std::abs(figures.krcc)));
      cells.push_back(fmt::format("{}/{}/{}", figures.plcc, figures.srcc, figures.krcc));
    }
    if (any) csv += fmt::format("{}\n", fmt::join(cells, ","));
  }
  return csv;
}

std::string judge_rows(std::span<const Prediction> predictions, std::uint64_t seed) {
  std::string lines;
  for (const PredictionSet& set : sets_of(predictions)) {
    const auto is_known = [&](std::size_t row) { return set.rows[row]->text.has_value(); };
    std::vector<const std::vector<std::size_t>*> images;
    std::vector<std::string_view> texts;
    for (const auto& image : set.images) {
      const Prediction& first = *set.rows[image.front()];
      if (!has_human_text(first) || std::none_of(image.begin(), image.end(), is_known)) continue;
      images.push_back(&image);
      texts.push_back(first.human_text);
    }
    const std::vector<std::size_t> other = other_images(texts, chance_stream(seed, set.set));
    for (std::size_t image = 0; image < images.size(); ++image) {
      for (const std::size_t i : *images[image]) {
        if (!is_known(i)) continue;
        const Prediction& p = *set.rows[i];
        const auto add = [&](const char* pair, const Prediction& human) {
          Json line{{"id", p.id}, {"set", p.set}};
          if (p.repeat) line["repeat"] = *p.repeat;
          line["pair"] = pair;
          line["answer"] = *p.text;
          if (p.caption) line["caption"] = *p.caption;
          if (p.reasoning) line["reasoning"] = *p.reasoning;
          line["human_text"] = human.human_text;
          line["human_text_of"] = human.id;
          lines += json_text(line) + "\n";
        };
        add("own", *set.rows[images[image]->front()]);
        if (!other.empty()) add("other", *set.rows[images[other[image]]->front()]);
      }
    }
  }
  return lines;
}

}  // namespace biqa
