// SPDX-License-Identifier: Apache-2.0
#include "io/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  EXPECT_THAT(message("a: 1\n---\nb: 2\n"), HasSubstr("2 documents"));
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
