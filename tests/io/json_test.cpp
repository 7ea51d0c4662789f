// SPDX-License-Identifier: Apache-2.0
#include "io/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(Json, ReadsOneDocument) {
  const nlohmann::json json = parse_json(R"({"a": [1, -2, 3.5, null, true], "b": {"a": "é"}})", "file");
  EXPECT_EQ(json["a"].size(), 5U);
  EXPECT_EQ(json["b"]["a"], "é");
}

struct Refusal {
  const char* name;
  std::string text;
  const char* reason;
};

class JsonRefusal : public testing::TestWithParam<Refusal> {};

TEST_P(JsonRefusal, NamesFileAndReason) {
  const std::string message = error_of([] { parse_json(GetParam().text, "config.json"); });
  EXPECT_THAT(message, AllOf(HasSubstr("cannot read config.json: "), HasSubstr(GetParam().reason)));
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    All, JsonRefusal,
    testing::Values(Refusal{"Empty", "", "at its end after 0 bytes"},
                    Refusal{"CutInHalf", R"({"a": [1, 2)", "at its end after 11 bytes"},
                    Refusal{"CutInText", R"({"a": "b)", "not valid JSON"},
                    Refusal{"Trailing", "{} {}", "byte 4 of 5"},
                    Refusal{"BadUtf8", "{\"a\": \"\xff\"}", "byte 8 of 10"},
                    Refusal{"LineBreakInText", "[\"a\nb\"]", "not valid JSON"},
                    Refusal{"Duplicate", R"({"a": 1, "b": {"a": 1}, "a": 2})", "the key \"a\" occurs twice"},
                    Refusal{"DuplicateBelow", R"([{"x": {"a": 1, "a": 1}}])", "the key \"a\" occurs twice"},
                    Refusal{"Deep", std::string(100, '['), "nested more than 64"},
                    Refusal{"VeryDeep", std::string(1000000, '['), "nested more than 64"},
                    Refusal{"Infinite", "[1e999]", "not valid JSON"},
                    Refusal{"Cut", "[1, 2", "check that the file is complete"},
                    Refusal{"NaN", "[NaN]", "write null for a missing number"},
                    Refusal{"Infinity", "[1, Infinity]", "write null for a missing number"},
                    Refusal{"NegativeInfinity", "[-Infinity]", "write null for a missing number"}),
    [](const auto& row) { return row.param.name; });

TEST(Json, EqualKeysInDifferentObjectsAreFine) {
  EXPECT_EQ(parse_json(R"([{"a": 1}, {"a": {"a": 2}}])", "file").size(), 2U);
}

TEST(Json, FieldsAreTyped) {
  const nlohmann::json json = parse_json(
      R"({"i": 7, "f": 1.5, "b": false, "t": "x", "is": [1, 2], "ts": ["a"], "n": null, "o": {"i": "seven"},
          "huge": 18446744073709551615})",
      "file");
  const JsonFields fields(json, "config.json");
  EXPECT_EQ(fields.integer("i"), 7);
  EXPECT_EQ(fields.number("i"), 7.0);
  EXPECT_EQ(fields.number("f"), 1.5);
  EXPECT_EQ(fields.boolean("b"), false);
  EXPECT_EQ(fields.text("t"), "x");
  EXPECT_EQ(fields.integers("is"), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(fields.texts("ts"), std::vector<std::string>{"a"});
  EXPECT_EQ(fields.integer("n"), std::nullopt);
  EXPECT_EQ(fields.integer("absent"), std::nullopt);
  EXPECT_FALSE(fields.has("n"));
  EXPECT_THAT(error_of([&] { fields.integer("f"); }),
              AllOf(HasSubstr("config.json"), HasSubstr("f is 1.5"), HasSubstr("an integer")));
  EXPECT_THAT(error_of([&] { fields.integer("i", 8, 9); }), HasSubstr("8 … 9"));
  EXPECT_THAT(error_of([&] { fields.integer("huge"); }), HasSubstr("18446744073709551615"));
  EXPECT_THAT(error_of([&] { fields.boolean("i"); }), HasSubstr("i is 7, not true or false"));
  EXPECT_THAT(error_of([&] { fields.text("i"); }), HasSubstr("not a text"));
  EXPECT_THAT(error_of([&] { fields.integers("ts"); }), HasSubstr("a list of integers"));
  EXPECT_THAT(error_of([&] { fields.texts("is"); }), HasSubstr("a list of texts"));
  EXPECT_THAT(error_of([&] { fields.object("o")->integer("i"); }), HasSubstr("o.i is \"seven\""));
  EXPECT_THAT(error_of([&] { fields.object("i"); }), HasSubstr("i is 7, not an object"));
  EXPECT_THAT(error_of([&] { fields.missing("x"); }), HasSubstr("x is missing"));
}

TEST(Json, FaultsAreLocated) {
  EXPECT_THAT(error_of([] { parse_json("[1,\n2,}", "file"); }), HasSubstr("in line 2, at byte 7 of 7 ("));
  EXPECT_THAT(error_of([] { parse_json("[1,\n2,", "file"); }),
              HasSubstr("in line 2, at its end after 6 bytes ("));
}

TEST(Json, TextsThatAreNotUtf8AreRepairedWithOneWarning) {
  ::testing::internal::CaptureStderr();
  const nlohmann::ordered_json line{{"id", "\xC3\xA9"}, {"names", {"b", "caf\xE9"}}};
  EXPECT_EQ(json_text(line), "{\"id\":\"\xC3\xA9\",\"names\":[\"b\",\"caf\xEF\xBF\xBD\"]}");
  EXPECT_EQ(json_text(nlohmann::json{{"\xFF", 1}}, 1), "{\n \"\xEF\xBF\xBD\": 1\n}");
  const std::string said = ::testing::internal::GetCapturedStderr();
  const std::string warning = "replaced in JSON: \"";
  EXPECT_THAT(said, HasSubstr(warning + "caf\xEF\xBF\xBD\""));
  EXPECT_EQ(said.find(warning), said.rfind(warning)) << said;
}

}  // namespace
}  // namespace biqa
