// SPDX-License-Identifier: Apache-2.0
// Against the Python packages rouge_score and nltk (fixtures of tests/scripts/make_number_fixtures.py).
#include "data/rouge.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/shared_folder.h"

namespace biqa {
namespace {

nlohmann::json fixture() {
  std::ifstream file(BIQA_SOURCE_DIR "/tests/fixtures/numbers/rouge.json");
  return nlohmann::json::parse(file);
}

void expect_agreement(const Rouge& got, const nlohmann::json& expected, const std::string& what) {
  const auto want = expected.get<std::array<double, 3>>();
  EXPECT_NEAR(got.precision, want[0], 1e-12) << what;
  EXPECT_NEAR(got.recall, want[1], 1e-12) << what;
  EXPECT_NEAR(got.f1, want[2], 1e-12) << what;
}

void expect_rows(const nlohmann::json& rows, const std::string& rougel_key) {
  for (const auto& row : rows) {
    const auto reference = row.at("reference").get<std::string>();
    const auto hypothesis = row.at("hypothesis").get<std::string>();
    const std::string what = fmt::format("reference \"{}\", hypothesis \"{}\"", reference, hypothesis);
    expect_agreement(rouge1(reference, hypothesis), row.at("rouge1"), what);
    expect_agreement(rougel(reference, hypothesis), row.at(rougel_key), what);
    expect_agreement(rouge1(reference, hypothesis, true), row.at("rouge1_stem"), what);
    expect_agreement(rougel(reference, hypothesis, true), row.at(rougel_key + "_stem"), what);
  }
}

TEST(Rouge, AgreesWithThePackage) {
  const nlohmann::json rows = fixture().at("pairs");
  ASSERT_GE(rows.size(), 80U);
  expect_rows(rows, "rougel");
}

TEST(Rouge, AgreesWithTheGoldens) {
  BIQA_REQUIRE_SHARED(shared);
  std::ifstream file(shared / "golden/numbers/rouge.json");
  const nlohmann::json rows = nlohmann::json::parse(file).at("pairs");
  ASSERT_EQ(rows.size(), 300U);
  expect_rows(rows, "rougeL");
}

TEST(Rouge, StemsAgreeWithNltk) {
  const nlohmann::json rows = fixture().at("stems");
  ASSERT_GE(rows.size(), 1000U);
  for (const auto& row : rows)
    EXPECT_EQ(porter_stem(row.at(0).get<std::string>()), row.at(1).get<std::string>()) << row;
}

TEST(Rouge, ByHand) {
  // Three of four words, one of them twice in the hypothesis and once in the reference.
  const Rouge score = rouge1("a sharp red car", "Sharp, sharp car! A bus");
  EXPECT_DOUBLE_EQ(score.precision, 3.0 / 5);
  EXPECT_DOUBLE_EQ(score.recall, 3.0 / 4);
  EXPECT_DOUBLE_EQ(score.f1, 2.0 / 3);
  EXPECT_DOUBLE_EQ(rougel("a sharp red car", "Sharp, sharp car! A bus").recall, 2.0 / 4);
}

TEST(Rouge, WordsOfAnyBytes) {
  EXPECT_EQ(rouge_words("It's 3.14, R2D2\tx_y"),
            (std::vector<std::string>{"it", "s", "3", "14", "r2d2", "x", "y"}));
  EXPECT_EQ(rouge_words("a\xff\xc4z\xe2\x84"), (std::vector<std::string>{"a", "z"}))
      << "broken UTF-8 separates";
  EXPECT_EQ(rouge_words(std::string("a\0b", 3)), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(rouge_words("").empty());
  EXPECT_TRUE(rouge_words(" ... \xF0\x9F\x91\x8D").empty());
}

}  // namespace
}  // namespace biqa
