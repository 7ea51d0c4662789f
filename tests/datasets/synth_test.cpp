// SPDX-License-Identifier: Apache-2.0
#include "datasets/synth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "data/manifest.h"
#include "datasets/distortions.h"
#include "io/image.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

/// Stripes and a ramp, so that every distortion changes it.
Image photo(std::int64_t width, std::int64_t height) {
  Image image{width, height, {}};
  for (std::int64_t y = 0; y < height; ++y)
    for (std::int64_t x = 0; x < width; ++x)
      for (const std::int64_t value :
           {40 + 150 * ((x / 5) % 2), 30 + 180 * y / height, 200 - 160 * x / width})
        image.rgb.push_back(static_cast<std::uint8_t>(value));
  return image;
}

double difference(const Image& a, const Image& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.rgb.size(); ++i) sum += std::abs(static_cast<double>(a.rgb[i]) - b.rgb[i]);
  return sum / static_cast<double>(a.rgb.size());
}

TEST(Distortions, EveryLevelIsWorse) {
  const Image image = photo(64, 48);
  const RandomStream random{1, 2, 3};
  for (const Distortion& distortion : distortions()) {
    SCOPED_TRACE(distortion.name);
    double before = 0, score = kCleanScore;
    for (std::size_t level = 0; level < kLevels; ++level) {
      const Image result = distortion.apply(image, distortion.strength.at(level), random);
      EXPECT_EQ(result.width, 64);
      EXPECT_EQ(result.rgb.size(), image.rgb.size());
      const double now = difference(result, image);
      EXPECT_GT(now, before) << "level " << level + 1;
      EXPECT_LT(distortion.score.at(level), score);
      before = now;
      score = distortion.score.at(level);
      EXPECT_EQ(distortion.apply(image, distortion.strength.at(level), random).rgb, result.rgb);
    }
  }
}

// Values that follow from the formulas.
TEST(Distortions, Formulas) {
  const RandomStream random{4, 5, 6};
  const auto named = [](std::string_view name) {
    for (const Distortion& distortion : distortions())
      if (distortion.name == name) return distortion;
    throw std::runtime_error("no such distortion");
  };
  Image dot{31, 31, std::vector<std::uint8_t>(3 * 31 * 31, 0)};
  for (std::size_t c = 0; c < 3; ++c) dot.rgb[3 * (15 * 31 + 15) + c] = 255;
  const Image blurred = named("gaussian blur").apply(dot, 1.4, random);
  // 255 / (2 pi sigma^2) in the middle, and exp(-1/(2 sigma^2)) of it beside; rounded to bytes after each direction.
  EXPECT_NEAR(blurred.rgb[3 * (15 * 31 + 15)], 20.7, 1.5);
  EXPECT_NEAR(blurred.rgb[3 * (15 * 31 + 16)], 20.7 * 0.775, 1.5);
  EXPECT_EQ(named("darken").apply(dot, 0.8, random).rgb[3 * (15 * 31 + 15)], 204);
  const Image noisy =
      named("white noise").apply({64, 64, std::vector<std::uint8_t>(3 * 64 * 64, 128)}, 0.04, random);
  double square = 0;
  for (const std::uint8_t value : noisy.rgb) square += (value - 128.0) * (value - 128.0);
  // The deviation of 4096 draws lies within 5 / sqrt(2 * 4096) of its value.
  EXPECT_NEAR(std::sqrt(square / static_cast<double>(noisy.rgb.size())), 10.2, 10.2 * 5 / std::sqrt(8192.0));
  const Image hit =
      named("impulse noise").apply({64, 64, std::vector<std::uint8_t>(3 * 64 * 64, 128)}, 0.11, random);
  const auto changed =
      std::count_if(hit.rgb.begin(), hit.rgb.end(), [](std::uint8_t v) { return v == 0 || v == 255; });
  EXPECT_NEAR(static_cast<double>(changed) / 3, 0.11 * 4096, 5 * std::sqrt(4096 * 0.11 * 0.89));
}

class Synth : public ::testing::Test {
 protected:
  Synth() {
    fs::create_directories(folder_.path() / "photos");
    write_png(folder_.path() / "photos/b.png", photo(40, 24));
    write_png(folder_.path() / "photos/a.png", photo(30, 60));
    folder_.write("photos/readme.txt", "not an image");
  }
  fs::path make(const std::string& name, std::int64_t count, std::uint64_t seed = 7) const {
    make_synthetic_set({folder_.path() / "photos", folder_.path() / name, count, seed, 32});
    return folder_.path() / name;
  }
  TemporaryFolder folder_;
};

TEST_F(Synth, SameSeedSameBytesAndShorterSetsArePrefixes) {
  const fs::path one = make("one", 12), two = make("two", 5), other = make("other", 5, 8);
  std::istringstream lines(file_content(two / "manifest.jsonl"));
  std::string line;
  std::size_t count = 0;
  bool differs = false;
  for (; std::getline(lines, line); ++count) {
    const std::string image = nlohmann::json::parse(line)["image"];
    EXPECT_EQ(file_content(one / image), file_content(two / image));
    differs |= file_content(other / image) != file_content(two / image);
  }
  EXPECT_EQ(count, 5U);
  EXPECT_TRUE(differs);
  EXPECT_TRUE(file_content(one / "manifest.jsonl").starts_with(file_content(two / "manifest.jsonl")));
}

TEST_F(Synth, RowsSayWhatWasDone) {
  const fs::path folder = make("set", 40);
  EXPECT_EQ(read_manifest(folder / "manifest.jsonl").size(), 40U);
  std::istringstream lines(file_content(folder / "manifest.jsonl"));
  std::map<std::string, int> references, types;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json row = nlohmann::json::parse(line);
    ++references[row["reference"]];
    ++types[row["type"]];
    EXPECT_EQ(row["width"], row["reference"] == "a.png" ? 30 : 32);
    double expected = kCleanScore;
    for (const Distortion& distortion : distortions())
      if (row["type"].get<std::string>() == distortion.name)
        expected = distortion.score.at(row["level"].get<std::size_t>() - 1);
    EXPECT_EQ(row["score"], expected);
  }
  EXPECT_EQ(references, (std::map<std::string, int>{{"a.png", 20}, {"b.png", 20}}));
  EXPECT_GT(types.size(), 8U);
}

TEST_F(Synth, PhotographsThatCannotBeReadAreLeftOut) {
  const fs::path whole = make("whole", 8);
  write_png(folder_.path() / "photos/c.png", photo(30, 30));
  const fs::path before = make("before", 9);
  folder_.write("photos/c.png", "no image");
  const SynthResult result =
      make_synthetic_set({folder_.path() / "photos", folder_.path() / "after", 9, 7, 32});
  EXPECT_EQ(result.images, 6);
  ASSERT_EQ(result.unreadable.size(), 1U);
  EXPECT_THAT(result.unreadable[0], HasSubstr("c.png"));
  std::istringstream lines(file_content(before / "manifest.jsonl"));
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json row = nlohmann::json::parse(line);
    const std::string image = row["image"];
    EXPECT_EQ(fs::exists(folder_.path() / "after" / image), row["reference"] != "c.png");
    if (row["reference"] == "c.png") continue;
    kept += line + "\n";
    EXPECT_EQ(file_content(folder_.path() / "after" / image), file_content(before / image));
  }
  EXPECT_EQ(file_content(folder_.path() / "after/manifest.jsonl"), kept);
}

/// The sets of other systems may differ by one level, because exp, log and cos of their libraries differ in the last bit.
/// tests/fixtures/synth/golden was written by
/// build/cpu/bin/biqa_data synth --photos tests/fixtures/synth/photos --out tests/fixtures/synth/golden --n 24 --seed 6 --side 20
TEST_F(Synth, AgreesWithTheGoldenSet) {
  const fs::path fixtures = fs::path(BIQA_SOURCE_DIR) / "tests/fixtures/synth";
  const SynthResult result = make_synthetic_set({fixtures / "photos", folder_.path() / "set", 24, 6, 20});
  EXPECT_EQ(result.images, 24);
  EXPECT_EQ(file_content(folder_.path() / "set/manifest.jsonl"),
            file_content(fixtures / "golden/manifest.jsonl"));
  std::map<std::string, int> types;
  for (const Sample& sample : read_manifest(fixtures / "golden/manifest.jsonl")) {
    ++types[sample.type];
    const Image golden = read_image(sample.image),
                made = read_image(folder_.path() / "set/images" / sample.id);
    ASSERT_EQ(made.rgb.size(), golden.rgb.size());
    for (std::size_t i = 0; i < golden.rgb.size(); ++i)
      ASSERT_LE(std::abs(made.rgb[i] - golden.rgb[i]), 1)
          << sample.id << ", " << sample.type << ", byte " << i;
  }
  EXPECT_EQ(types.size(), distortions().size() + 1) << "every distortion and the clean image are in the set";
}

TEST_F(Synth, Refusals) {
  const auto refusal = [&](const fs::path& photos) {
    return error_of([&] { make_synthetic_set({photos, folder_.path() / "out", 2, 1, 16}); });
  };
  fs::create_directories(folder_.path() / "empty");
  EXPECT_THAT(refusal(folder_.path() / "empty"), HasSubstr("it has no images"));
  EXPECT_THAT(refusal(folder_.path() / "nowhere"), HasSubstr("cannot list folder"));
  folder_.write("broken/a.png", "no image");
  EXPECT_THAT(refusal(folder_.path() / "broken"), HasSubstr("a.png"));
  EXPECT_FALSE(fs::exists(folder_.path() / "out"));
  make("full", 1);
  EXPECT_THAT(error_of([&] { make("full", 1); }), HasSubstr("full"));
}

}  // namespace
}  // namespace biqa
