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
#include "core/random.h"
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
      if (plcc == "no minimum") continue;
      if (plcc.is_null()) {
        EXPECT_TRUE(row["plcc_" + fit].is_null()) << what << row["plcc_" + fit];
        continue;
      }
      const double worse = row["rmse_" + fit].get<double>() - want["rmse_" + fit].get<double>();
      EXPECT_LT(worse, 1e-3) << what;
      if (want["decoding"] == "greedy" && (want["set"] == "curved" || want["set"] == "random")) {
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

TEST(Report, Repeats) {
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
}

TEST(Report, IntervalsAreThoseOfDrawnImages) {
  std::vector<Prediction> rows;
  std::vector<double> all_ratings, all_scores;
  for (int i = 0; i < 16; ++i) {
    const int image = i / 2;
    all_scores.push_back(image);
    all_ratings.push_back(5 * image % 8 + 0.25 * (i % 2));
    rows.push_back(prediction(std::to_string(image), all_scores.back(), all_ratings.back(), 3));
    rows.back().repeat = i % 2;
  }
  /// With `answers` rows at a time.
  const auto interval = [&](std::size_t answers) {
    std::vector<std::size_t> drawn(all_scores.size() / answers);
    std::vector<double> values;
    for (std::size_t draw = 0; draw < kBootstrapDraws; ++draw) {
      draw_rows(bootstrap_stream(0, "set"), draw, drawn);
      std::vector<double> x, y;
      for (const std::size_t i : drawn) {
        for (std::size_t answer = 0; answer < answers; ++answer) {
          x.push_back(all_ratings[answers * i + answer]);
          y.push_back(all_scores[answers * i + answer]);
        }
      }
      values.push_back(pearson(x, y));
    }
    return percentile_interval(values);
  };
  const Interval of_images = interval(2), of_rows = interval(1);
  EXPECT_GT(std::abs(of_images.low - of_rows.low), 0.05) << "drawing rows would be seen";
  const nlohmann::json row = document_of(rows)["rows"][0];
  EXPECT_DOUBLE_EQ(row["plcc_ci"][0].get<double>(), of_images.low);
  EXPECT_DOUBLE_EQ(row["plcc_ci"][1].get<double>(), of_images.high);
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

std::vector<std::string> keys_of(const nlohmann::json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

/// A file with both decodings of a set.
std::vector<Prediction> both_decodings() {
  std::vector<Prediction> rows;
  for (int i = 0; i < 8; ++i) {
    rows.push_back(prediction(std::to_string(i % 4), i % 4, i < 4 ? i : 7 - i, i % 4));
    rows.back().type = "blur";
    rows.back().text = rows.back().human_text = "text " + std::to_string(i % 4);
    if (i >= 4) rows.back().repeat = 0;
  }
  return rows;
}

TEST(Report, EveryObjectHasExactlyItsKeys) {
  ReportOptions options;
  options.by = {"type"};
  const nlohmann::json document = document_of(both_decodings(), options);
  const auto expect_keys = [](const nlohmann::json& object, std::vector<std::string> keys,
                              const std::vector<std::string>& added) {
    keys.insert(keys.end(), added.begin(), added.end());
    EXPECT_THAT(keys_of(object), ::testing::UnorderedElementsAreArray(keys));
  };
  const std::vector<std::string> agreement{
      "plcc",          "srcc",     "krcc",      "rmse",      "mae",       "plcc_in_scale", "srcc_in_scale",
      "rmse_in_scale", "srcc_all", "plcc_fit4", "rmse_fit4", "plcc_fit5", "rmse_fit5"};
  expect_keys(document, {"rows", "groups", "gaps", "mean"}, {"group_means", "fits"});
  std::vector<std::string> row{"set",
                               "condition",
                               "decoding",
                               "n",
                               "parse_failures",
                               "out_of_scale",
                               "plcc_ci",
                               "srcc_ci",
                               "distinct_ratings",
                               "leak_rate",
                               "caption_words",
                               "reasoning_words",
                               "contradiction_mean",
                               "contradiction_share",
                               "instability",
                               "texts"};
  row.insert(row.end(), agreement.begin(), agreement.end());
  expect_keys(document["rows"][0], row, {"repeats", "plcc_repeats", "srcc_repeats", "fit4", "fit5"});
  std::vector<std::string> texts{"n", "length_ratio"}, added{"without_text", "distinct_texts"};
  for (const std::string part : {"", "_chance", "_excess"}) {
    for (const char* figure :
         {"rouge1_p", "rouge1_r", "rouge1_f", "rougel_p", "rougel_r", "rougel_f", "similarity", "polarity"})
      texts.push_back(figure + part);
    added.push_back("aspects" + part);
    added.push_back("repetition" + part);
  }
  expect_keys(document["rows"][0]["texts"], texts, added);
  expect_keys(document["groups"][0], {"set", "condition", "by", "value", "n", "plcc", "srcc"}, {"decoding"});
  expect_keys(document["group_means"][0], {},
              {"set", "condition", "decoding", "by", "groups", "plcc", "srcc"});
  expect_keys(document["gaps"][0], {"set", "plcc_gap", "plcc_gap_ci", "srcc_gap", "srcc_gap_ci"},
              {"decoding"});
  std::vector<std::string> mean{"condition"};
  mean.insert(mean.end(), agreement.begin(), agreement.end());
  expect_keys(document["mean"][0], mean, {"decoding", "sets"});
}

TEST(Report, GreedyAndSampledRowsAreNotMixed) {
  const std::vector<Prediction> rows = both_decodings();
  ReportOptions options;
  options.by = {"type"};
  const Report report = report_of(rows, options);
  const nlohmann::json document = nlohmann::json::parse(report_json(report));
  const auto decodings = [&](const char* part) {
    std::vector<std::string> found;
    for (const auto& object : document[part])
      found.push_back(object.value("condition", "") + " " + object["decoding"].get<std::string>());
    return found;
  };
  const auto all =
      ::testing::UnorderedElementsAre("image greedy", "caption greedy", "image sampled", "caption sampled");
  EXPECT_THAT(decodings("rows"), all);
  EXPECT_THAT(decodings("groups"), all);
  EXPECT_THAT(decodings("group_means"), all);
  EXPECT_THAT(decodings("mean"), all);
  EXPECT_THAT(decodings("gaps"), ::testing::ElementsAre(" greedy", " sampled"));
  for (const auto& mean : document["mean"]) {
    EXPECT_EQ(mean["sets"], 1);
    if (mean["condition"] == "image") {
      EXPECT_DOUBLE_EQ(mean["plcc"].get<double>(), mean["decoding"] == "greedy" ? 1 : -1);
    }
  }
  EXPECT_DOUBLE_EQ(document["gaps"][1]["plcc_gap"].get<double>(), -2);
  const std::string table = like_pyiqa(report);
  for (const char* line : {"\nbiqa image greedy,1.0000/1.0000/1.0000,1/1/1\n",
                           "\nbiqa image sampled,1.0000/1.0000/1.0000,-1/-1/-1\n", "\nbiqa caption sampled,"})
    EXPECT_THAT(table, HasSubstr(line));
  const std::vector<ComparisonRow> compared = compare_predictions(rows, rows, {});
  ASSERT_EQ(compared.size(), 4U);
  EXPECT_EQ(nlohmann::json::parse(comparison_json(compared, "a", "b"))["comparison"][3]["decoding"],
            "sampled");
}

TEST(Report, EnormousNumbersGiveFiguresOrNull) {
  constexpr double kEnormous = 1.7e308;
  std::vector<Prediction> rows;
  const std::vector<double> ratings{-kEnormous, kEnormous, 2, 3, 4, 5};
  for (std::size_t i = 0; i < ratings.size(); ++i)
    rows.push_back(prediction(std::to_string(i), static_cast<double>(i) - 2, ratings[i], -ratings[i]));
  const auto check = [](const std::string& json) {
    EXPECT_THAT(json, Not(HasSubstr("nan")));
    EXPECT_THAT(json, Not(HasSubstr("inf")));
  };
  check(report_json(report_of(rows, {})));
  nlohmann::json row = document_of(rows)["rows"][0];
  // Of ratings that are 1.7e308 times smaller, where the small ones are nothing.
  const std::vector<double> small{-1, 1, 0, 0, 0, 0}, scores{-2, -1, 0, 1, 2, 3};
  EXPECT_NEAR(row["plcc"].get<double>(), pearson(small, scores), 1e-12);
  EXPECT_DOUBLE_EQ(row["srcc"].get<double>(), spearman(ratings, scores));
  EXPECT_NEAR(row["rmse"].get<double>() / kEnormous, std::sqrt(2.0 / 6), 1e-12);
  EXPECT_NEAR(row["mae"].get<double>() / kEnormous, 2.0 / 6, 1e-12);
  EXPECT_TRUE(row["plcc_fit4"].is_null());
  EXPECT_TRUE(row["contradiction_mean"].is_null());  // 3.4e308 has no double
  for (Prediction& p : rows) p.score = *p.rating < 0 ? kEnormous : -*p.rating;
  check(report_json(report_of(rows, {})));
  row = document_of(rows)["rows"][0];
  EXPECT_NEAR(row["plcc"].get<double>(), -1, 1e-12);
  EXPECT_TRUE(row["rmse"].is_null());
  // Repeats, and a comparison.
  std::vector<Prediction> repeated = rows;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    repeated[i].repeat = 0;
    repeated.push_back(repeated[i]);
    repeated.back().repeat = 1;
    repeated.back().rating = -*repeated[i].rating;
  }
  check(report_json(report_of(repeated, {})));
  std::vector<Prediction> other = rows;
  for (std::size_t i = 0; i < other.size(); ++i) other[i].rating = i == 1 ? 1e200 : 1;
  for (std::size_t i = 0; i < other.size(); ++i) rows[i].score = other[i].score = static_cast<double>(i);
  const std::vector<ComparisonRow> compared = compare_predictions(other, rows, {});
  check(comparison_json(compared, "a", "b"));
  EXPECT_NEAR(compared[0].rmse.a / 1e200, std::sqrt(1.0 / 6), 1e-12);
  EXPECT_EQ(compared[0].closer_a + compared[0].closer_b + compared[0].equal, 6);
}

TEST(TextFigures, ATextWithoutAnotherHasNoChanceLevelAndNoFigure) {
  const std::vector<TextPair> one{{0, "a sharp photo", "a sharp picture"}};
  const TextFigures figures = text_figures(one, 1, RandomStream{1});
  EXPECT_EQ(figures.n, 1);
  EXPECT_TRUE(std::isnan(figures.rouge1_r.value));
  EXPECT_EQ(figures.length_ratio, 1);  // needs no other text
  std::vector<Prediction> rows{prediction("a", 1, 2, 3)};
  rows[0].text = "a sharp photo";
  rows[0].human_text = "a sharp picture";
  EXPECT_THAT(report_table(report_of(rows, {})), Not(HasSubstr("ROUGE")));
  EXPECT_THAT(report_table(report_of(rows, {})), HasSubstr("answers have 1.00 times as many words"));
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

TEST(TextFigures, PolarityHearsWhatOverlapOfWordsDoesNot) {
  const std::vector<TextPair> pairs{{0, "a blurry picture of a boat", "a sharp picture of a boat"},
                                    {1, "a picture that is not noisy", "the photo is free of noise"}};
  const TextFigures figures = text_figures(pairs, 2, RandomStream{1});
  EXPECT_DOUBLE_EQ(figures.polarity.value, 0.5);  // opposite, equal
  EXPECT_DOUBLE_EQ(figures.polarity.chance, 0);   // sharpness beside noise
  EXPECT_TRUE(std::isnan(figures.similarity.value));
  // Pairs without any aspect do not count.
  const std::vector<TextPair> more{pairs[0], {1, "a dog", "a cat"}};
  EXPECT_DOUBLE_EQ(text_figures(more, 2, RandomStream{1}).polarity.value, 0);
  const std::vector<TextPair> none{{0, "a cow", "a pig"}, {1, "a dog", "a cat"}};
  EXPECT_TRUE(std::isnan(text_figures(none, 2, RandomStream{1}).polarity.value));
}

TEST(TextFigures, SimilarityComparesVectors) {
  SentenceEncoder encoder = SentenceEncoder::open(BIQA_SOURCE_DIR "/tests/fixtures/sentence", 1);
  const std::vector<std::string_view> texts{"the picture is sharp", "noise and blur", "a dog"};
  const std::vector<float> rows = encoder.encode(texts);
  const auto width = static_cast<std::size_t>(encoder.width());
  const auto row = [&](std::size_t i) { return std::span(rows).subspan(i * width, width); };
  // Two answers for the first image; the second is blank.
  const std::vector<TextPair> pairs{{0, texts[2], texts[0]}, {0, " ", texts[0]}, {1, texts[1], texts[1]}};
  const TextFigures figures = text_figures(pairs, 2, RandomStream{1}, {&encoder});
  EXPECT_DOUBLE_EQ(figures.similarity.value, (cosine(row(2), row(0)) + 0 + cosine(row(1), row(1))) / 3);
  EXPECT_DOUBLE_EQ(figures.similarity.chance, (cosine(row(2), row(1)) + 0 + cosine(row(1), row(0))) / 3);
}

TEST(TextFigures, NoImageKeepsItsOwnText) {
  for (const std::size_t count : {2U, 3U, 17U}) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
    const std::vector<std::string_view> texts(names.begin(), names.end());
    const std::vector<std::size_t> other = other_images(texts, RandomStream{count});
    // The rotation by one place in the random order (contract).
    const std::vector<std::size_t> order = random_order(count, RandomStream{count});
    for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(other[order[i]], order[(i + 1) % count]);
  }
  EXPECT_TRUE(other_images(std::vector<std::string_view>{"a"}, RandomStream{1}).empty());
  EXPECT_TRUE(other_images({}, RandomStream{1}).empty());
}

TEST(TextFigures, EqualTextsNeverStandInForEachOther) {
  using Texts = std::vector<std::string_view>;
  for (const Texts& texts :
       {Texts{"a", "a", "b", "b"}, Texts{"a", "b", "a", "c", "d", "d"}, Texts{"a", "a", "a", "b", "c", "d"},
        Texts{"a", "b", "b", "b", "c", "b"}, Texts{"a", "a", "a", "a", "b"}}) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const std::vector<std::size_t> other = other_images(texts, RandomStream{seed});
      ASSERT_EQ(other.size(), texts.size());
      std::vector<int> used(texts.size(), 0);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        EXPECT_NE(texts[other[i]], texts[i]);
        ++used[other[i]];
      }
      const auto most = static_cast<std::size_t>(
          std::max(std::count(texts.begin(), texts.end(), "a"), std::count(texts.begin(), texts.end(), "b")));
      if (2 * most <= texts.size()) {
        EXPECT_EQ(*std::max_element(used.begin(), used.end()), 1);
      }
    }
  }
  EXPECT_TRUE(other_images(Texts{"a", "a", "a"}, RandomStream{1}).empty());
  // An answer that repeats a text of two images is not better than chance because of it.
  const std::vector<TextPair> pairs{
      {0, "noisy", "noisy"}, {1, "noisy", "noisy"}, {2, "x", "dark"}, {3, "y", "dull"}};
  for (std::uint64_t seed = 0; seed < 20; ++seed)
    EXPECT_EQ(text_figures(pairs, 4, RandomStream{seed}).rouge1_r.chance, 0) << seed;
}

TEST(TextFigures, AnUnknownAnswerIsNotAnEmptyOne) {
  std::vector<Prediction> rows{prediction("a", 1, 2, 3), prediction("b", 2, 3, 3), prediction("c", 3, 4, 3)};
  for (Prediction& p : rows) p.human_text = "human text " + p.id;
  rows[0].text = "human text a";
  rows[1].text = "human text b";
  const nlohmann::json texts = document_of(rows)["rows"][0]["texts"];
  EXPECT_EQ(texts["n"], 2);
  EXPECT_EQ(texts["without_text"], 1);
  EXPECT_DOUBLE_EQ(texts["rouge1_r"].get<double>(), 1);
  EXPECT_EQ(report_of(rows, {}).without_text, 1);
  const std::string judged = judge_rows(rows, 0);
  EXPECT_EQ(std::count(judged.begin(), judged.end(), '\n'), 4);
  EXPECT_THAT(judged, Not(HasSubstr("\"c\"")));
  rows[2].text = "";  // an empty answer is one
  EXPECT_EQ(document_of(rows)["rows"][0]["texts"]["n"], 3);
  EXPECT_DOUBLE_EQ(document_of(rows)["rows"][0]["texts"]["rouge1_r"].get<double>(), 2.0 / 3);
  EXPECT_EQ(parse_prediction(R"({"id": "a", "rating": 3})", "line").text, std::nullopt);
  EXPECT_EQ(parse_prediction(R"({"id": "a", "rating": 3, "text": ""})", "line").text, "");
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
  EXPECT_EQ(read.line, 0);
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
