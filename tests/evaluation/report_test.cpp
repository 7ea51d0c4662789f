// SPDX-License-Identifier: Apache-2.0
// Against scipy, numpy and rouge_score (fixtures of tests/scripts/make_evaluation_fixtures.py), and by hand.
#include "evaluation/report.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "evaluation/report_text.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using ::testing::HasSubstr;

const std::string kFixtures = BIQA_SOURCE_DIR "/tests/fixtures/evaluation/";

nlohmann::json expected_document() {
  std::ifstream file(kFixtures + "expected.json");
  return nlohmann::json::parse(file);
}

nlohmann::json document_of(std::span<const Prediction> predictions, const ReportOptions& options = {}) {
  return nlohmann::json::parse(report_json(report_of(predictions, options)));
}

void expect_near(const nlohmann::json& got, const nlohmann::json& want, double tolerance,
                 const std::string& what) {
  if (want.is_array()) {
    ASSERT_TRUE(got.is_array()) << what;
    ASSERT_EQ(got.size(), want.size()) << what;
    for (std::size_t i = 0; i < want.size(); ++i) expect_near(got[i], want[i], tolerance, what);
  } else if (want.is_number_float()) {
    ASSERT_TRUE(got.is_number()) << what << " is " << got << ", not " << want;
    const auto value = want.get<double>();
    EXPECT_NEAR(got.get<double>(), value, tolerance * std::max(1.0, std::abs(value))) << what;
  } else {
    EXPECT_EQ(got, want) << what;
  }
}

TEST(Report, AgreesWithScipyAndRougeScore) {
  const nlohmann::json expected = expected_document();
  ReportOptions options;
  options.draws = expected.at("draws");
  options.seed = expected.at("seed");
  const nlohmann::json got = document_of(read_predictions(kFixtures + "predictions.jsonl"), options);
  ASSERT_EQ(got.at("rows").size(), expected.at("rows").size());
  for (std::size_t i = 0; i < expected.at("rows").size(); ++i) {
    const nlohmann::json &row = got["rows"][i], &want = expected["rows"][i];
    const std::string what =
        fmt::format("set {}, {}: ", want["set"].get<std::string>(), want["condition"].get<std::string>());
    for (const auto& [key, value] : want.items()) {
      if (key.find("fit") != std::string::npos || key == "texts") continue;
      expect_near(row.at(key), value, 1e-10, what + key);
    }
    if (want["texts"].is_null()) continue;
    for (const auto& [key, value] : want["texts"].items())
      expect_near(row["texts"].at(key), value, 1e-12, what + key);
  }
  for (std::size_t i = 0; i < expected.at("gaps").size(); ++i) {
    for (const auto& [key, value] : expected["gaps"][i].items())
      expect_near(got["gaps"][i].at(key), value, 1e-10, key);
  }
}

/// Both programs stop when a step changes the sum of squares or the parameters by less than 1e-15 of them. At a
/// minimum, fitted ratings that are off by e change RMSE and PLCC by e² only: 1e-9 is generous. With few or tied
/// ratings the best curve may lie at infinity. Then each program stops somewhere on the way, where its limit of
/// evaluations lies: the fit must not be worse than scipy's by more than a thousandth of a rating.
TEST(Report, FitsAgreeWithScipy) {
  const nlohmann::json expected = expected_document();
  const nlohmann::json got = document_of(read_predictions(kFixtures + "predictions.jsonl"));
  int compared = 0;
  for (std::size_t i = 0; i < expected.at("rows").size(); ++i) {
    const nlohmann::json &row = got["rows"][i], &want = expected["rows"][i];
    for (const std::string fit : {"fit4", "fit5"}) {
      const std::string what = fmt::format("{} {} {}", want["set"].dump(), want["condition"].dump(), fit);
      const nlohmann::json& plcc = want["plcc_" + fit];
      if (plcc.is_null()) {
        EXPECT_TRUE(row["plcc_" + fit].is_null()) << what << row["plcc_" + fit];
        continue;
      }
      const double worse = row["rmse_" + fit].get<double>() - want["rmse_" + fit].get<double>();
      EXPECT_LT(worse, 1e-3) << what;
      if (want["set"] == "curved" || want["set"] == "random") {
        ++compared;
        EXPECT_NEAR(row["plcc_" + fit].get<double>(), plcc.get<double>(), 1e-9) << what;
        EXPECT_NEAR(worse, 0, 1e-9) << what;
      }
    }
  }
  EXPECT_EQ(compared, 8);
}

/// The logarithms in it reach 4e5, so doubles allow a relative error of about 4e5 · 2^-52 = 1e-10.
TEST(Report, SignTestAgreesWithScipy) {
  const nlohmann::json expected = expected_document().at("sign_tests");
  ASSERT_EQ(expected.size(), 8U);
  for (const auto& row : expected) {
    const auto p = row[2].get<double>();
    EXPECT_NEAR(sign_test(row[0], row[1]), p, 1e-10 * p) << row;
  }
  EXPECT_EQ(sign_test(0, 0), 1);
}

TEST(Report, DrawnPairsEqualTheStatisticsOfTheDrawnValues) {
  const std::vector<double> x{3, 3, 1, 2.5, 4, 4, 4, 1}, y{1, 2, 2, 5, 3, 3, 4, 0};
  DrawnPairs pairs(x, y);
  std::vector<std::size_t> rows(x.size());
  for (std::size_t draw = 0; draw < 50; ++draw) {
    draw_rows(RandomStream{3}, draw, rows);
    std::vector<double> drawn_x, drawn_y;
    for (const std::size_t row : rows) {
      drawn_x.push_back(x[row]);
      drawn_y.push_back(y[row]);
    }
    EXPECT_DOUBLE_EQ(pairs.pearson(rows), pearson(drawn_x, drawn_y));
    EXPECT_DOUBLE_EQ(pairs.spearman(rows), spearman(drawn_x, drawn_y));
  }
}

Prediction prediction(const std::string& id, double score, std::optional<double> rating,
                      std::optional<double> caption_rating) {
  Prediction p;
  p.id = id;
  p.set = "set";
  p.score = score;
  p.rating = rating;
  p.caption_rating = caption_rating;
  p.has_caption_rating = true;
  return p;
}

TEST(Report, NothingToEvaluate) {
  EXPECT_EQ(document_of({})["rows"].size(), 0U);
  std::vector<Prediction> one{prediction("a", 3, std::nullopt, std::nullopt)};
  const nlohmann::json row = document_of(one)["rows"][0];
  EXPECT_EQ(row["n"], 1);
  EXPECT_EQ(row["parse_failures"], 1);
  for (const char* name :
       {"plcc", "srcc", "krcc", "rmse", "mae", "srcc_all", "plcc_fit4", "plcc_ci", "leak_rate"})
    EXPECT_TRUE(row[name].is_null()) << name;
  EXPECT_TRUE(row["texts"].is_null());
  one[0].score.reset();
  const Report report = report_of(one, {});
  EXPECT_TRUE(report.rows.empty());
  EXPECT_EQ(report.without_score, 1);
  EXPECT_THAT(report_table(report), HasSubstr("PLCC"));
}

TEST(Report, RepeatsAreDrawnWithTheirImage) {
  std::vector<Prediction> rows;
  const std::vector<std::vector<double>> ratings{{1, 2}, {3, 3}, {4, 5}};
  for (std::size_t image = 0; image < ratings.size(); ++image) {
    for (std::size_t repeat = 0; repeat < 2; ++repeat) {
      rows.push_back(
          prediction(std::to_string(image), static_cast<double>(image + 1), ratings[image][repeat], 3));
      rows.back().repeat = static_cast<std::int64_t>(repeat);
    }
  }
  const nlohmann::json row = document_of(rows)["rows"][0];
  EXPECT_EQ(row["n"], 6);
  EXPECT_EQ(row["decoding"], "sampled");
  EXPECT_EQ(row["repeats"], 2);
  EXPECT_DOUBLE_EQ(row["instability"].get<double>(), 2 * std::sqrt(0.5) / 3);
  const std::vector<double> scores{1, 2, 3};
  const double first = pearson(std::vector<double>{1, 3, 4}, scores),
               second = pearson(std::vector<double>{2, 3, 5}, scores);
  EXPECT_DOUBLE_EQ(row["plcc_repeats"][0].get<double>(), std::min(first, second));
  EXPECT_DOUBLE_EQ(row["plcc_repeats"][1].get<double>(), std::max(first, second));
  // A draw of images has both answers of each, so a draw of a single image has one score and no correlation.
  std::vector<Prediction> two(rows.begin(), rows.begin() + 4);
  two[1].rating = 1;  // both images rated alike twice: every draw of both is perfect
  EXPECT_DOUBLE_EQ(document_of(two)["rows"][0]["plcc_ci"][0].get<double>(), 1);
}

TEST(Report, GroupsByFieldsOfTheManifest) {
  std::vector<Prediction> rows;
  for (int i = 0; i < 6; ++i) {
    rows.push_back(prediction(std::to_string(i), i, i < 3 ? i : 6 - i, std::nullopt));
    rows.back().type = i < 3 ? "blur" : "noise";
  }
  rows.push_back(prediction("x", 1, 1, std::nullopt));  // without type
  ReportOptions options;
  options.by = {"type"};
  const nlohmann::json document = document_of(rows, options);
  ASSERT_EQ(document["groups"].size(), 4U);
  EXPECT_EQ(document["groups"][0]["value"], "blur");
  EXPECT_EQ(document["groups"][0]["n"], 3);
  EXPECT_DOUBLE_EQ(document["groups"][0]["srcc"].get<double>(), 1);
  EXPECT_DOUBLE_EQ(document["groups"][1]["srcc"].get<double>(), -1);
  EXPECT_EQ(document["group_means"][0]["srcc"], 0.0);
  EXPECT_EQ(document["group_means"][0]["groups"], 2);
  EXPECT_EQ(document["group_means"][1]["groups"], 0);  // no rating from a caption
  options.by = {"colour"};
  EXPECT_THROW(report_of(rows, options), Error);
}

TEST(Report, TheMeanOverSetsNeedsEverySet) {
  std::vector<Prediction> rows;
  for (const char* set : {"a", "b"}) {
    for (int i = 0; i < 3; ++i) {
      rows.push_back(prediction(std::to_string(i), i, set[0] == 'a' ? i : 2 * i, 1));
      rows.back().set = set;
    }
  }
  nlohmann::json mean = document_of(rows)["mean"];
  ASSERT_EQ(mean.size(), 2U);
  EXPECT_EQ(mean[0]["sets"], 2);
  EXPECT_DOUBLE_EQ(mean[0]["plcc"].get<double>(), 1);
  EXPECT_DOUBLE_EQ(mean[0]["rmse"].get<double>(), std::sqrt(5.0 / 3) / 2);
  EXPECT_TRUE(mean[1]["plcc"].is_null());
  for (int i = 3; i < 6; ++i) rows[static_cast<std::size_t>(i)].rating = 2;
  EXPECT_TRUE(document_of(rows)["mean"][0]["plcc"].is_null());
}

TEST(Report, LeaksAndContradictions) {
  std::vector<Prediction> rows{prediction("a", 1, 2.5, 3.25), prediction("b", 2, 3, 3),
                               prediction("c", 3, 4, {})};
  rows[0].caption = "sharp, about 2.5";
  rows[1].caption = "dark";
  const nlohmann::json row = document_of(rows)["rows"][1];
  EXPECT_DOUBLE_EQ(row["leak_rate"].get<double>(), 0.5);
  EXPECT_DOUBLE_EQ(row["caption_words"].get<double>(), 2);
  EXPECT_TRUE(row["reasoning_words"].is_null());
  EXPECT_DOUBLE_EQ(row["contradiction_mean"].get<double>(), 0.375);
  EXPECT_DOUBLE_EQ(row["contradiction_share"].get<double>(), 0.5);
}

TEST(Report, ConditionsThatWereNotAskedForAreLeftOut) {
  std::vector<Prediction> rows{prediction("a", 1, 2, 3), prediction("b", 2, 3, 4)};
  ReportOptions options;
  options.conditions = {"caption"};
  EXPECT_EQ(document_of(rows, options)["rows"].size(), 1U);
  EXPECT_EQ(document_of(rows, options)["gaps"].size(), 0U);
  for (Prediction& p : rows) p.has_caption_rating = false;
  EXPECT_EQ(document_of(rows)["rows"].size(), 1U);
}

TEST(Report, EveryFigureIsDocumented) {
  const std::string document = file_content(BIQA_SOURCE_DIR "/docs/evaluation.md");
  const nlohmann::json got = document_of(read_predictions(kFixtures + "predictions.jsonl"));
  std::vector<std::string> names;
  for (const auto& [key, value] : got["rows"][0].items()) names.push_back(key);
  for (const auto& [key, value] : got["rows"][0]["texts"].items()) {
    if (!key.ends_with("_chance") && !key.ends_with("_excess")) names.push_back(key);
  }
  EXPECT_GT(names.size(), 40U);
  for (const std::string& name : names)
    EXPECT_NE(document.find("`" + name + "`"), std::string::npos) << name << " is not in docs/evaluation.md";
}

TEST(TextFigures, ATextWithoutAnotherHasNoChanceLevelAndNoFigure) {
  const std::vector<TextPair> one{{0, "a sharp photo", "a sharp picture"}};
  const TextFigures figures = text_figures(one, 1, RandomStream{1});
  EXPECT_EQ(figures.n, 1);
  EXPECT_TRUE(std::isnan(figures.rouge1_r.value));
  std::vector<Prediction> rows{prediction("a", 1, 2, 3)};
  rows[0].text = "a sharp photo";
  rows[0].human_text = "a sharp picture";
  EXPECT_THAT(report_table(report_of(rows, {})), Not(HasSubstr("ROUGE")));
}

TEST(TextFigures, HouseStyleHasNoExcess) {
  // The same answer for every image agrees with other images' texts as much as with its own.
  const std::vector<TextPair> pairs{{0, "a sharp photo", "a sharp picture"},
                                    {1, "a sharp photo", "a dark picture"}};
  const TextFigures figures = text_figures(pairs, 2, RandomStream{1});
  EXPECT_DOUBLE_EQ(figures.rouge1_r.value, 0.5);
  EXPECT_DOUBLE_EQ(figures.rouge1_r.excess(), 0);
  EXPECT_DOUBLE_EQ(figures.repetition.value, 1);
  EXPECT_DOUBLE_EQ(figures.repetition.chance, 2.0 / 3);
  EXPECT_DOUBLE_EQ(figures.aspects.value, 0.5);  // sharp is named, dark is not
}

TEST(TextFigures, NoImageKeepsItsOwnText) {
  for (const std::size_t count : {2U, 3U, 17U}) {
    const std::vector<std::size_t> other = other_images(count, RandomStream{count});
    std::vector<bool> used(count, false);
    for (std::size_t i = 0; i < count; ++i) {
      EXPECT_NE(other[i], i);
      used[other[i]] = true;
    }
    EXPECT_EQ(std::count(used.begin(), used.end(), true), static_cast<std::ptrdiff_t>(count));
  }
  EXPECT_TRUE(other_images(1, RandomStream{1}).empty());
}

TEST(TextFigures, Aspects) {
  EXPECT_EQ(named_aspects("Blurry and out of focus"), named_aspects("not sharp"));
  EXPECT_EQ(named_aspects("a red car"), 0U);
  EXPECT_NE(named_aspects("noise"), named_aspects("blur"));
  EXPECT_EQ(named_aspects("split"), 0U);  // "lit" is a whole word
  EXPECT_NE(named_aspects("well lit"), 0U);
}

TEST(Predictions, AreReadAsTheyWereWritten) {
  Prediction p = prediction("a\"b", 2.25, 3.1, std::nullopt);
  p.text = "<rating>3.1</rating>\n\xff";
  p.human_text = "ein Bild – scharf";
  p.caption = "";
  p.repeat = 2;
  p.level = "3";
  p.caption_out_of_scale = true;
  const Prediction read = parse_prediction(to_json_line(p), "line");
  EXPECT_EQ(to_json_line(read), to_json_line(parse_prediction(to_json_line(read), "line")));
  EXPECT_EQ(read.id, p.id);
  EXPECT_EQ(read.rating, p.rating);
  EXPECT_FALSE(read.caption_rating);
  EXPECT_TRUE(read.has_caption_rating);
  EXPECT_TRUE(read.caption_out_of_scale);
  EXPECT_EQ(read.caption, "");
  EXPECT_FALSE(read.reasoning);
  EXPECT_EQ(read.repeat, 2);
  EXPECT_EQ(read.level, "3");
}

TEST(Predictions, RowsThatCannotBeUsedAreNamed) {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& content) -> std::string {
    try {
      read_predictions(folder.write("p.jsonl", content));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const std::string good = R"({"id": "a", "set": "s", "score": 2, "rating": 3})";
  EXPECT_EQ(message(good), "");
  EXPECT_THAT(message(""), HasSubstr("no rows"));
  EXPECT_THAT(message(good + "\n" + good), HasSubstr("p.jsonl:2: id 'a' of set s is already in line 1"));
  EXPECT_THAT(message("\n{}"), HasSubstr("p.jsonl:2: id is missing"));
  EXPECT_THAT(message(R"({"id": "a", "score": 2})"), HasSubstr("rating is missing"));
  EXPECT_THAT(message(R"({"id": "a", "score": 2, "rating": NaN})"), HasSubstr("not valid JSON"));
  EXPECT_THAT(message(R"({"id": "a", "score": 2, "rating": "3"})"),
              HasSubstr("rating is \"3\", not a number"));
  EXPECT_THAT(message(R"({"id": "a", "score": 1e999, "rating": 3})"), HasSubstr("p.jsonl:1"));
  EXPECT_THAT(message(R"({"id": "a", "level": [1], "rating": 3})"), HasSubstr("level"));
  // The set's name may come from the file, an id and a level may be numbers, and a rating may have no score.
  const auto rows = read_predictions(folder.write("own.jsonl", R"({"id": 7, "level": 2, "rating": 9})"));
  EXPECT_EQ(rows[0].set, "own");
  EXPECT_EQ(rows[0].id, "7");
  EXPECT_EQ(rows[0].level, "2");
  EXPECT_TRUE(rows[0].out_of_scale);
  EXPECT_FALSE(rows[0].score);
}

}  // namespace
}  // namespace biqa
