// SPDX-License-Identifier: Apache-2.0
#include "datasets/examine.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "datasets/perceptual.h"
#include "io/image.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A scene of waves; `scene` changes what it shows, `factor` its size.
Image scene(double number, std::int64_t factor = 1) {
  Image image{48 * factor, 32 * factor, {}};
  for (std::int64_t y = 0; y < image.height; ++y) {
    for (std::int64_t x = 0; x < image.width; ++x) {
      const double u = (static_cast<double>(x) + 0.5) / static_cast<double>(image.width);
      const double v = (static_cast<double>(y) + 0.5) / static_cast<double>(image.height);
      for (int channel = 0; channel < 3; ++channel) {
        const double wave =
            std::sin(number * 5 * u + 3 * number * number * v) + std::cos((7 + number) * v * u + channel);
        image.rgb.push_back(static_cast<std::uint8_t>(128 + 55 * wave));
      }
    }
  }
  return image;
}

class Examine : public ::testing::Test {
 protected:
  fs::path image(const std::string& name, const Image& content) const {
    write_png(folder_.path() / name, content);
    return folder_.path() / name;
  }
  fs::path manifest(const std::string& name, const std::string& rows) const {
    return folder_.write(name, rows);
  }
  static std::string row(const std::string& id, const std::string& image, const std::string& more = "") {
    return fmt::format("{{\"id\": \"{}\", \"image\": \"{}\", \"score\": 3{}}}\n", id, image, more);
  }
  TemporaryFolder folder_;
};

TEST_F(Examine, ValidationListsEveryFault) {
  image("a.png", scene(1));
  image("b.png", scene(2));
  folder_.write("cut.png", file_content(folder_.path() / "a.png").substr(0, 300));
  const Validation result = validate_manifest(manifest(
      "m.jsonl", row("1", "a.png", ", \"width\": 48, \"height\": 32") + "\n" + row("2", "absent.png") +
                     row("3", "cut.png") + row("1", "b.png") + "{\n" + row("4", "./a.png") +
                     row("5", "b.png", ", \"width\": 47") + row("6", "b.png", ", \"split\": 3") +
                     "{\"id\": \"7\", \"image\": \"b.png\", \"score\": 6}\n"));
  EXPECT_EQ(result.rows, 9);
  std::vector<std::int64_t> lines;
  for (const ManifestFault& fault : result.faults) {
    lines.push_back(fault.line);
    EXPECT_THAT(fault.text, HasSubstr(fmt::format("m.jsonl:{}", fault.line)));
  }
  // Lines 8 to 10 repeat the image of line 5.
  EXPECT_THAT(lines, ElementsAre(3, 4, 5, 6, 7, 8, 8, 9, 9, 10, 10));
  EXPECT_THAT(result.faults[4].text, HasSubstr("already in line 1, with the id '1'"));
  EXPECT_THAT(result.faults[6].text, HasSubstr("48x32 pixels, not the row's 47x32"));
}

TEST_F(Examine, ValidationListsAllFaultsOfARow) {
  image("a.png", scene(1));
  const Validation result = validate_manifest(manifest(
      "m.jsonl",
      R"({"id": 3, "image": "absent.png", "score": "x", "raw_score": [], "std": -1, "split": 2, "set": 1, "type": {}, )"
      R"("text": {"description": 1, "good": "fine", "bad": []}, "width": 0})"
      "\n"
      R"({"id": " ", "image": "a.png", "score": 7, "std": "1", "text": "fine", "level": [], "completion": 1})"
      "\n"
      R"({"id": "c", "image": "a.png", "score": 3, "std": 0, "split": "val", "text": {"good": null}})"));
  const auto of_line = [&](std::int64_t line) {
    std::vector<std::string> texts;
    for (const ManifestFault& fault : result.faults)
      if (fault.line == line) texts.push_back(fault.text);
    return texts;
  };
  const auto names = [](const char* key) { return HasSubstr(std::string(": ") + key + " is "); };
  EXPECT_THAT(of_line(1), ElementsAre(names("id"), names("score"), names("raw_score"), names("std"),
                                      names("set"), names("type"), names("split"), names("width"),
                                      names("text.bad"), names("text.description"), HasSubstr("absent.png")));
  EXPECT_THAT(of_line(2), ElementsAre(names("id"), names("score"), names("std"), names("completion"),
                                      names("level"), names("text")));
  EXPECT_THAT(of_line(3), ::testing::IsEmpty());
  EXPECT_TRUE(result.unknown.empty());
}

TEST_F(Examine, UnknownKeysAreNoFaults) {
  image("a.png", scene(1));
  image("b.png", scene(2));
  const Validation result = validate_manifest(manifest(
      "m.jsonl", row("1", "a.png") + row("2", "b.png", ", \"mos\": 3, \"text\": {\"great\": \"x\"}") +
                     row("3", "b.png", ", \"mos\": 4")));
  ASSERT_EQ(result.unknown.size(), 2U);
  EXPECT_EQ(result.unknown[0].key, "text.great");
  EXPECT_EQ(result.unknown[1].key, "mos");
  EXPECT_EQ(result.unknown[1].rows, 2);
  EXPECT_EQ(result.unknown[1].line, 2);
  ASSERT_EQ(result.faults.size(), 1U);  // b.png is there twice
  EXPECT_EQ(result.faults[0].line, 3);
}

TEST_F(Examine, ValidationOfGoodAndEmptyManifests) {
  image("a.png", scene(1));
  EXPECT_TRUE(validate_manifest(manifest("m.jsonl", row("1", "a.png"))).faults.empty());
  EXPECT_THAT(error_of([&] { validate_manifest(manifest("empty.jsonl", "")); }), HasSubstr("it is empty"));
  EXPECT_EQ(validate_manifest(manifest("bad.jsonl", "{\n{\n")).faults.size(), 2U);
}

TEST_F(Examine, Stats) {
  const ManifestStats stats = manifest_stats(manifest(
      "m.jsonl",
      "{\"id\":\"1\",\"image\":\"x\",\"score\":1,\"set\":\"s\",\"split\":\"test\",\"reference\":\"r\"}\n"
      "{\"id\":\"2\",\"image\":\"y\",\"score\":5,\"set\":\"s\",\"split\":\"train\",\"reference\":\"r\","
      "\"text\":{\"description\":\"two  words\",\"good\":\" \"}}\n"
      "{\"id\":\"3\",\"image\":\"z\",\"score\":1.25,\"set\":\"s\",\"split\":\"train\",\"text\":{"
      "\"description\":\"a b c d\"}}\n"));
  ASSERT_EQ(stats.groups.size(), 2U);
  EXPECT_EQ(stats.groups[1].split, "train");
  EXPECT_EQ(stats.groups[1].rows, 2);
  EXPECT_EQ(stats.references, 1);
  EXPECT_EQ(stats.scores.median, 1.25);
  EXPECT_NEAR(stats.scores.mean, 7.25 / 3, 1e-15);
  EXPECT_NEAR(stats.scores.deviation, 2.2407216, 1e-7);  // numpy.std([1, 5, 1.25], ddof=1)
  EXPECT_EQ(stats.histogram.front(), 1);
  EXPECT_EQ(stats.histogram[1], 1);
  EXPECT_EQ(stats.histogram.back(), 1);
  EXPECT_EQ(stats.texts[0].words.count, 2);
  EXPECT_EQ(stats.texts[0].words.mean, 3);
  EXPECT_EQ(stats.texts[1].words.count, 0) << "a blank text is none";
  EXPECT_EQ(summary_of({}).count, 0);
  EXPECT_EQ(summary_of({2, 4}).median, 3);
}

TEST_F(Examine, SharedImages) {
  image("a.png", scene(1));
  image("b.png", scene(2));
  image("c.png", scene(3));
  image("same.png", scene(1));
  image("large.png", scene(2, 3));
  const Image third = scene(3);
  const std::string jpeg = encode_jpeg(third, 40);
  folder_.write("compressed.jpg", jpeg);
  image("other.png", scene(4));
  image("grey1.png", {8, 8, std::vector<std::uint8_t>(192, 90)});
  image("grey2.png", {8, 8, std::vector<std::uint8_t>(192, 91)});
  const fs::path first =
      manifest("a.jsonl", row("1", "a.png") + row("2", "b.png") + row("3", "c.png") + row("G", "grey1.png"));
  const fs::path second =
      manifest("b.jsonl", row("x", "same.png") + row("y", "large.png") + row("z", "compressed.jpg") +
                              row("g", "grey2.png") + row("w", "other.png") + row("v", "b.png"));
  const SharedImages result = shared_images(first, second);
  EXPECT_EQ(result.first_rows, 4);
  EXPECT_EQ(result.second_rows, 6);
  ASSERT_EQ(result.pairs.size(), 5U);
  EXPECT_EQ(result.pairs[0].second, "x");
  EXPECT_TRUE(result.pairs[0].by_pixels);
  EXPECT_FALSE(result.pairs[0].by_name);
  EXPECT_FALSE(result.pairs[0].distance);
  EXPECT_EQ(result.pairs[1].second, "y");
  EXPECT_TRUE(result.pairs[1].distance);
  EXPECT_FALSE(result.pairs[1].by_pixels);
  EXPECT_EQ(result.pairs[2].second, "v");
  EXPECT_TRUE(result.pairs[2].by_name);
  EXPECT_TRUE(result.pairs[2].by_pixels);
  EXPECT_EQ(result.pairs[3].second, "z");
  EXPECT_TRUE(result.pairs[3].distance);
  EXPECT_EQ(result.pairs[4].first, "G")
      << "names are compared without regard to case, and flat images are not alike";
  EXPECT_TRUE(result.pairs[4].by_name);
  EXPECT_FALSE(result.pairs[4].distance);
}

TEST_F(Examine, OverlapWithItselfAndUnreadableImages) {
  image("a.png", scene(1));
  folder_.write("bad.png", "no image");
  const fs::path file = manifest("a.jsonl", row("1", "a.png") + row("2", "./a.png") + row("3", "bad.png"));
  const SharedImages result = shared_images(file, file);
  ASSERT_EQ(result.pairs.size(), 1U);
  EXPECT_EQ(result.pairs[0].first, "1");
  EXPECT_EQ(result.pairs[0].second, "2");
  ASSERT_EQ(result.unreadable.size(), 1U);
  EXPECT_THAT(result.unreadable[0], HasSubstr("bad.png"));
}

TEST_F(Examine, ManyPairsAreCountedAndTheFirstAreKept) {
  constexpr std::int64_t kRows = 600;  // more than a block
  image("a.png", scene(1));
  image("b.png", scene(1, 2));
  image("c.png", scene(2));
  std::string rows;
  for (std::int64_t i = 0; i < kRows; ++i) rows += row(std::to_string(i), i % 3 == 0 ? "b.png" : "a.png");
  rows += row("last", "c.png");
  const fs::path file = manifest("m.jsonl", rows);
  const SharedImages all = shared_images(file, file, 1'000'000, 1);
  EXPECT_EQ(all.all_pairs, kRows * (kRows - 1) / 2);
  EXPECT_EQ(all.by_pixels, 200 * 199 / 2 + 400 * 399 / 2);
  EXPECT_EQ(all.by_name, all.by_pixels);
  EXPECT_EQ(all.alike, 200 * 400);
  EXPECT_EQ(all.pairs.size(), static_cast<std::size_t>(all.all_pairs));
  for (const std::int64_t threads : {1, 3}) {
    const SharedImages some = shared_images(file, file, 700, threads);
    EXPECT_EQ(some.all_pairs, all.all_pairs);
    EXPECT_EQ(some.alike, all.alike);
    ASSERT_EQ(some.pairs.size(), 700U);
    for (std::size_t i = 0; i < some.pairs.size(); ++i) {
      ASSERT_EQ(some.pairs[i].first, all.pairs[i].first) << i;
      ASSERT_EQ(some.pairs[i].second, all.pairs[i].second) << i;
      ASSERT_EQ(some.pairs[i].distance, all.pairs[i].distance) << i;
    }
  }
  EXPECT_TRUE(shared_images(file, file, 0).pairs.empty());
}

// The hash sees only low frequencies. Images that differ in the others have equal hashes; the small copies tell them apart.
TEST_F(Examine, EqualHashesAreNotEnough) {
  const auto wave = [](int frequency, int place) {
    return std::cos(std::numbers::pi * frequency * (place + 0.5) / 32);
  };
  const auto with_stripes = [&](double contrast) {
    Image result{32, 32, {}};
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 32; ++x) {
        double value = 128 + contrast * wave(20, x);
        // 64 different amplitudes from -4 to 4, so that no bit of the hash is a matter of rounding.
        for (int u = 0; u < 8; ++u)
          for (int v = 0; v < 8; ++v)
            value += 4 * ((37 * (8 * u + v) % 64 - 31.5) / 31.5) * wave(u, y) * wave(v, x);
        const auto level = static_cast<std::uint8_t>(std::clamp(value, 0.0, 255.0));
        for (int channel = 0; channel < 3; ++channel) result.rgb.push_back(level);
      }
    }
    return result;
  };
  const Image plain = with_stripes(0), faint = with_stripes(2), striped = with_stripes(40);
  const Impression a = impression_of(plain), b = impression_of(striped);
  ASSERT_LE(hash_distance(a, b), kAlikeBits);
  ASSERT_LT(correlation_of(a, b), kAlikeCorrelation);
  image("plain.png", plain);
  image("faint.png", faint);
  image("striped.png", striped);
  const SharedImages result =
      shared_images(manifest("a.jsonl", row("1", "plain.png")),
                    manifest("b.jsonl", row("2", "striped.png") + row("3", "faint.png")));
  ASSERT_EQ(result.pairs.size(), 1U);
  EXPECT_EQ(result.pairs[0].second, "3");
  EXPECT_TRUE(result.pairs[0].distance);
}

}  // namespace
}  // namespace biqa
