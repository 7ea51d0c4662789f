// SPDX-License-Identifier: Apache-2.0
#include "data/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "core/error.h"
#include "support/shared_folder.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class Manifest : public testing::Test {
 protected:
  Manifest() {
    // Pixels are not read here: the headers suffice.
    folder.write("a.png", "P6 4 3 255\n");
    folder.write("sub/b.png", "P5 7 5 255\n");
  }
  std::string message(const std::string& content) const {
    const auto file = folder.write("m.jsonl", content);
    return error_of([&] { read_manifest(file); });
  }

  TemporaryFolder folder;
};

TEST_F(Manifest, ReadsRows) {
  const auto file = folder.write(
      "m.jsonl",
      R"({"id": "one", "image": "a.png", "score": 4.478899, "raw_score": 77.3836, "set": "koniq10k", )"
      R"("text": {"description": "sharp, ünï.", "good": " ", "bad": "noise."}, "photo": "ignored"})"
      "\r\n\n"
      R"({"id": "two", "image": "sub/b.png", "score": 1})");
  const std::vector<Sample> samples = read_manifest(file);
  ASSERT_EQ(samples.size(), 2U);
  EXPECT_EQ(samples[0].id, "one");
  EXPECT_EQ(samples[0].image, folder.path() / "a.png");
  EXPECT_EQ(samples[0].size.width, 4);
  EXPECT_EQ(samples[0].size.height, 3);
  EXPECT_EQ(samples[0].score, 4.478899);
  EXPECT_EQ(samples[0].raw_score, 77.3836);
  EXPECT_EQ(samples[0].set, "koniq10k");
  EXPECT_EQ(samples[0].human_text(), "sharp, ünï. noise.");
  EXPECT_EQ(samples[1].image, folder.path() / "sub/b.png");
  EXPECT_EQ(samples[1].set, "m");
  EXPECT_EQ(samples[1].raw_score, std::nullopt);
  EXPECT_EQ(samples[1].human_text(), "");
}

TEST_F(Manifest, NamesLineAndReason) {
  const std::string good = R"({"id": "one", "image": "a.png", "score": 3})"
                           "\n";
  EXPECT_THAT(message(good + "{\"id\": \"two\", \n"), HasSubstr("m.jsonl:2"));
  EXPECT_THAT(message(good + "[1]\n"), HasSubstr("m.jsonl:2"));
  EXPECT_THAT(message(good + "\n" + good), HasSubstr("m.jsonl:3: id 'one' is already in line 1"));
  EXPECT_THAT(message(R"({"id": "x", "image": "none.png", "score": 3})"),
              testing::AllOf(HasSubstr("m.jsonl:1: image"), HasSubstr("none.png does not exist")));
  EXPECT_THAT(message(R"({"id": "x", "image": "sub", "score": 3})"), HasSubstr("is not a file"));
  for (const char* score :
       {"0.999", "5.001", "-3", "1e999", "NaN", "Infinity", "\"3\"", "[3]", "null", "true"}) {
    const std::string text = message(fmt::format(R"({{"id": "x", "image": "a.png", "score": {}}})", score));
    EXPECT_THAT(text, HasSubstr("m.jsonl:1")) << score;
  }
  EXPECT_THAT(message(R"({"id": "x", "image": "a.png"})"), HasSubstr("score"));
  EXPECT_THAT(message(R"({"image": "a.png", "score": 3})"), HasSubstr("id"));
  EXPECT_THAT(message(R"({"id": " ", "image": "a.png", "score": 3})"), HasSubstr("id"));
  EXPECT_THAT(message(R"({"id": "x", "score": 3})"), HasSubstr("image"));
  EXPECT_THAT(message(R"({"id": "x", "image": "a.png", "score": 3, "text": "t"})"), HasSubstr("text"));
  EXPECT_THAT(message(""), HasSubstr("it is empty"));
  EXPECT_THAT(message("\n \n"), HasSubstr("none of its 2 lines"));
  EXPECT_NE(error_of([&] { read_manifest(folder.path() / "no.jsonl"); }), "");
  EXPECT_NE(error_of([&] { read_manifest(folder.path()); }), "");
}

TEST_F(Manifest, SkipsBadRowsAndListsThem) {
  const auto file = folder.write("m.jsonl",
                                 "broken\n"
                                 R"({"id": "one", "image": "a.png", "score": 3})"
                                 "\n"
                                 R"({"id": "one", "image": "a.png", "score": 3})"
                                 "\n"
                                 R"({"id": "two", "image": "none.png", "score": 3})"
                                 "\n"
                                 R"({"id": "none", "image": "a.png", "score": 9})"
                                 "\n");
  std::vector<BadRow> bad;
  const std::vector<Sample> samples = read_manifest(file, true, &bad);
  ASSERT_EQ(samples.size(), 1U);
  ASSERT_EQ(bad.size(), 4U);
  EXPECT_EQ(bad[0].line, 1);
  EXPECT_EQ(bad[1].line, 3);
  EXPECT_EQ(bad[2].line, 4);
  EXPECT_EQ(bad[3].line, 5);
  EXPECT_THAT(bad[2].reason, HasSubstr("none.png"));
  // Without images in place, only what the file itself says counts.
  EXPECT_EQ(read_manifest(file, true, nullptr, false).size(), 2U);
  EXPECT_NE(error_of([&] { read_manifest(folder.write("bad.jsonl", "x\ny\n"), true); }), "");
}

TEST_F(Manifest, PicturesNeedNoScore) {
  const auto file =
      folder.write("m.jsonl", R"({"id": "one", "image": "a.png", "score": 77.3, "text": "no object"})"
                              "\n"
                              R"({"id": "two", "image": "sub/b.png"})"
                              "\n"
                              R"({"id": "three", "image": "none.png"})"
                              "\n"
                              R"({"id": "two", "image": "a.png"})"
                              "\n");
  std::vector<BadRow> bad;
  const std::vector<Sample> samples = read_pictures(file, bad);
  ASSERT_EQ(samples.size(), 2U);
  EXPECT_EQ(samples[1].id, "two");
  EXPECT_EQ(samples[1].image, folder.path() / "sub/b.png");
  ASSERT_EQ(bad.size(), 2U);
  EXPECT_EQ(bad[0].line, 3);
  EXPECT_EQ(bad[1].line, 4);
  bad.clear();
  EXPECT_TRUE(read_pictures(folder.write("bad.jsonl", "x\n"), bad).empty());
  EXPECT_EQ(bad.size(), 1U);
  bad.clear();
  EXPECT_THAT(error_of([&] { read_pictures(folder.write("empty.jsonl", "\n"), bad); }),
              HasSubstr("it is empty"));
}

TEST_F(Manifest, MessagesNameWhatExists) {
  EXPECT_THAT(message(R"({"id": "x", "image": "none.png", "score": 3})"), HasSubstr("data.skip_bad: true"));
  EXPECT_THAT(message(R"({"id": "x", "image": "a.png", "score": 7})"), testing::Not(HasSubstr("biqa_data")));
}

TEST_F(Manifest, FindsPicturesThatNoRunCouldRead) {
  folder.write("empty.png", "");
  folder.write("text.png", "not a readable image");
  folder.write("half.png", std::string("\x89PNG\r\n\x1A\n\0\0\0\rIHDR\0", 17));
  folder.write("strip.ppm", "P6 50000 1 255\n");
  folder.write("bomb.ppm", "P6 60000 60000 255\n");
  std::string lines = R"({"id": "good", "image": "a.png", "score": 3})"
                      "\n";
  for (const auto& [name, why] :
       std::vector<std::pair<std::string, std::string>>{{"empty.png", "empty"},
                                                        {"text.png", "not a readable image"},
                                                        {"half.png", "too early"},
                                                        {"strip.ppm", "aspect"},
                                                        {"bomb.ppm", "60000 x 60000"}}) {
    const std::string row = fmt::format(R"({{"id": "{0}", "image": "{0}", "score": 3}})", name) + "\n";
    EXPECT_THAT(message(row), testing::AllOf(HasSubstr("m.jsonl:1: "), HasSubstr(name), HasSubstr(why)));
    lines += row;
  }
  std::vector<BadRow> bad;
  EXPECT_EQ(read_manifest(folder.write("m.jsonl", lines), true, &bad).size(), 1U);
  ASSERT_EQ(bad.size(), 5U);
  EXPECT_EQ(bad.back().line, 6);
}

TEST_F(Manifest, FindsOverlaps) {
  const auto sample = [&](const char* id, const std::string& image) {
    Sample s;
    s.id = id;
    s.image = folder.path() / image;
    return s;
  };
  std::filesystem::create_symlink(folder.path() / "a.png", folder.path() / "link.png");
  const std::vector<Sample> training{sample("1", "a.png"), sample("2", "sub/b.png")};
  const std::vector<Sample> clean{sample("3", "c.png")};
  EXPECT_FALSE(find_overlap(training, clean).any());
  const std::vector<Sample> shared{sample("2", "c.png"), sample("4", "sub/../a.png"),
                                   sample("5", "link.png")};
  const Overlap overlap = find_overlap(training, shared);
  EXPECT_TRUE(overlap.any());
  EXPECT_THAT(overlap.ids, ElementsAre("2"));
  EXPECT_EQ(overlap.images.size(), 2U);
}

TEST_F(Manifest, ReadsTheReferenceSets) {
  BIQA_REQUIRE_SHARED(shared);
  const std::vector<Sample> train = read_manifest(shared / "tiny" / "train.jsonl");
  const std::vector<Sample> test = read_manifest(shared / "tiny" / "test.jsonl");
  EXPECT_EQ(train.size(), 384U);
  EXPECT_FALSE(find_overlap(train, test).any());
  for (const Sample& sample : train) EXPECT_NE(sample.human_text(), "");
}

}  // namespace
}  // namespace biqa
