// SPDX-License-Identifier: Apache-2.0
#include "io/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using testing::HasSubstr;

TEST(Yaml, KeepsKindsTextsAndLines) {
  const YamlNode root = parse_yaml("a:\n  b: 1.50\n  c: \"2\"\n\nd: [x, 'null', null, ~]\ne:\n", "file.yaml");
  ASSERT_EQ(root.kind, YamlKind::map);
  ASSERT_EQ(root.children.size(), 3U);
  const YamlNode* a = root.find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->where, "file.yaml:1");
  const YamlNode* b = a->find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->text, "1.50");
  EXPECT_FALSE(b->quoted);
  EXPECT_EQ(b->where, "file.yaml:2");
  EXPECT_TRUE(a->find("c")->quoted);
  EXPECT_EQ(a->find("d"), nullptr);
  const YamlNode* d = root.find("d");
  ASSERT_EQ(d->children.size(), 4U);
  EXPECT_EQ(d->where, "file.yaml:5");
  EXPECT_EQ(d->children[1].kind, YamlKind::scalar);
  EXPECT_EQ(d->children[1].text, "null");
  EXPECT_EQ(d->children[2].kind, YamlKind::null);
  EXPECT_EQ(d->children[3].kind, YamlKind::null);
  EXPECT_EQ(root.find("e")->kind, YamlKind::null);
}

YamlNode value_of(const std::string& text) {
  return parse_yaml("k: " + text + "\n", "f").children.front();
}

TEST(Yaml, BooleansAreTheSixWordsOfTheCoreSchema) {
  for (const char* word : {"true", "True", "TRUE", "!!bool true"})
    EXPECT_EQ(yaml_boolean(value_of(word)), true) << word;
  for (const char* word : {"false", "False", "FALSE"}) EXPECT_EQ(yaml_boolean(value_of(word)), false) << word;
  for (const char* word : {"yes", "no", "on", "off", "Yes", "ON", "y", "n", "tRUE", "t", "1", "0", "\"true\"",
                           "'False'", "!!str true", "~", "[true]"})
    EXPECT_EQ(yaml_boolean(value_of(word)), std::nullopt) << word;
}

TEST(Yaml, NullIsTheFourWordsAndNothing) {
  for (const char* word : {"null", "Null", "NULL", "~", "", "# nothing", "!!null ''", "!!null"})
    EXPECT_EQ(value_of(word).kind, YamlKind::null) << word;
  for (const char* word : {"\"null\"", "'~'", "''", "nULL", "None", "nil", "!!str", "!!str null"})
    EXPECT_EQ(value_of(word).kind, YamlKind::scalar) << word;
}

TEST(Yaml, NumbersOfTheCoreSchema) {
  const std::vector<std::pair<const char*, double>> numbers{
      {"0", 0},      {"-0", 0},    {"+1", 1},     {"-12", -12},   {"010", 10},         {"0x1F", 31},
      {"0xff", 255}, {"0o17", 15}, {"1e3", 1000}, {"1E+3", 1000}, {"-1.5e-3", -.0015}, {".5", .5},
      {"+.5", .5},   {"5.", 5},    {"5.e1", 50},  {"4.0", 4},     {"!!float 3", 3}};
  for (const auto& [text, value] : numbers) EXPECT_EQ(yaml_number(value_of(text)), value) << text;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const char* text : {".inf", ".Inf", ".INF", "+.inf"})
    EXPECT_EQ(yaml_number(value_of(text)), kInfinity) << text;
  EXPECT_EQ(yaml_number(value_of("-.Inf")), -kInfinity);
  for (const char* text : {".nan", ".NaN", ".NAN"})
    EXPECT_TRUE(std::isnan(yaml_number(value_of(text)).value_or(0)));
  for (const char* text :
       {"1_000", "'1,000'", "+-5",     "--5",   "-+5",    "inf",   "-inf",  "nan",   "infinity",
        "iNF",   ".iNF",    "-.nan",   "0b11",  "0x",     "0o",    "0o8",   "0xG",   "-0x1F",
        "+0o7",  "0X1F",    "1e",      "e3",    ".",      "1.2.3", "1e3.5", "12:30", "0x1p3",
        "1f",    "\"5\"",   "!!str 5", "1e400", "1e-400", "~",     "true",  "[1]"})
    EXPECT_EQ(yaml_number(value_of(text)), std::nullopt) << text;
}

TEST(Yaml, WholeNumbers) {
  const std::vector<std::pair<const char*, std::int64_t>> numbers{
      {"0", 0},     {"+7", 7},     {"-7", -7}, {"010", 10},   {"0x1F", 31},
      {"0o17", 15}, {"1e3", 1000}, {"4.0", 4}, {"2.5e1", 25}, {"9223372036854775807", 9223372036854775807}};
  for (const auto& [text, value] : numbers) EXPECT_EQ(yaml_integer(value_of(text)), value) << text;
  for (const char* text : {"4.5", "1e-3", "1_000", "9223372036854775808", "1e19", ".inf", ".nan",
                           "0x8000000000000000", "+-7", "'7'", "seven", ""})
    EXPECT_EQ(yaml_integer(value_of(text)), std::nullopt) << text;
}

TEST(Yaml, EmptyIsNull) {
  EXPECT_EQ(parse_yaml("", "f").kind, YamlKind::null);
  EXPECT_EQ(parse_yaml("# only a comment\n", "f").kind, YamlKind::null);
}

TEST(Yaml, RefusesWhatIsAmbiguousOrBroken) {
  const auto message = [](const std::string& text) { return error_of([&] { parse_yaml(text, "f.yaml"); }); };
  EXPECT_THAT(message("a: 1\nb: 2\na: 3\n"),
              HasSubstr("f.yaml:3: key 'a' is given twice, first at f.yaml:1"));
  EXPECT_THAT(message("a: [1, 2\n"), HasSubstr("f.yaml:"));
  EXPECT_THAT(message("a: 1\n b: 2\n"), HasSubstr("f.yaml:2"));
  EXPECT_THAT(message("[1]: 2\n"), HasSubstr("f.yaml:1: a key must be plain text"));
  EXPECT_THAT(message("a: 1\n---\nb: 2\n"), HasSubstr("more than one document"));
  // The library finds documents without end in these.
  for (const char* text : {", a", ",", "a\n...\n, b", "{a: 1}\n,"})
    EXPECT_THAT(message(text), HasSubstr("f.yaml:")) << text;
  EXPECT_THAT(message("a: *nowhere\n"), HasSubstr("f.yaml:1"));
  try {
    parse_yaml("a: [", "f");
    FAIL();
  } catch (const Error& problem) {
    EXPECT_EQ(problem.code(), ExitCode::usage);
  }
}

TEST(Yaml, AliasesAreFollowedButBombsAreNot) {
  const YamlNode root = parse_yaml("a: &x [1, 2]\nb: *x\n", "f");
  ASSERT_EQ(root.find("b")->children.size(), 2U);
  EXPECT_EQ(root.find("b")->children[1].text, "2");

  std::string bomb = "l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int level = 1; level < 12; ++level) {
    bomb += fmt::format("l{0}: &l{0} [", level);
    for (int i = 0; i < 10; ++i) bomb += fmt::format("*l{},", level - 1);
    bomb += "]\n";
  }
  EXPECT_THAT(error_of([&] { parse_yaml(bomb, "f"); }), HasSubstr("more than 100000 values"));
  EXPECT_NE(error_of([] { parse_yaml("a: &a [*a]\n", "f"); }), "");
  EXPECT_NE(error_of([] { parse_yaml(std::string(100000, '['), "f"); }), "");
  EXPECT_NE(error_of([] { parse_yaml(std::string(100000, '{'), "f"); }), "");
}

TEST(Yaml, ReadsFilesAndNamesThoseItCannot) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_yaml(folder.write("a.yaml", "k: v\n")).find("k")->where,
            (folder.path() / "a.yaml").string() + ":1");
  EXPECT_THAT(error_of([&] { read_yaml(folder.path() / "none.yaml"); }), HasSubstr("none.yaml"));
  EXPECT_NE(error_of([&] { read_yaml(folder.path()); }), "");
  EXPECT_NE(error_of([&] { read_yaml(folder.write("big.yaml", std::string(std::size_t{5} << 20, '#'))); }),
            "");
}

TEST(Yaml, QuotedTextReadsBack) {
  for (const std::string text : {"plain", "", "null", "a: b", "line\nline", "tab\t\"quote\" \\ back",
                                 "\x01\x7f", "é…\u2028", "{caption}", "  spaces  "}) {
    const YamlNode root = parse_yaml("k: " + yaml_quoted(text), "f");
    EXPECT_EQ(root.find("k")->kind, YamlKind::scalar);
    EXPECT_EQ(root.find("k")->text, text);
  }
}

}  // namespace
}  // namespace biqa
