// SPDX-License-Identifier: Apache-2.0
// Pictures to features with a vision tower that only counts (support/remote/scripted_ops.h).
#include "actor/pictures.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "support/remote/scripted_ops.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using testing::Script;
using testing::ScriptedOps;

const std::filesystem::path kAssets = BIQA_SOURCE_DIR "/assets/tiny";

class Pictures : public ::testing::Test {
 protected:
  explicit Pictures(bool like_device = false)
      : script_(std::make_shared<Script>()),
        model_(QwenVl::load(kAssets / "model", std::make_shared<ScriptedOps>(script_, like_device), {})),
        config_(PreprocessConfig::load(kAssets / "model")) {}
  /// The number of the call that made a picture's features.
  static float call_of(const EncodedPicture& picture) { return picture.features->row<float>(0)[0]; }
  /// What the tower saw of a picture: the first value of each cell.
  static std::vector<float> content_of(const EncodedPicture& picture) {
    std::vector<float> values;
    for (std::int64_t i = 0; i < picture.tokens(); ++i)
      values.push_back(picture.features->row<float>(i)[picture.features->columns() - 1]);
    return values;
  }

  std::shared_ptr<Script> script_;
  std::unique_ptr<QwenVl> model_;
  PreprocessConfig config_;
  const std::filesystem::path one_ = kAssets / "sample_cat.png", two_ = kAssets / "sample_cat_dark.png";
};

TEST_F(Pictures, APictureIsEncodedOnce) {
  PictureEncoder encoder(*model_, config_, std::int64_t{1} << 30);
  const std::vector<std::filesystem::path> both{one_, two_};
  const auto first = encoder.encode(both);
  ASSERT_EQ(first.size(), 2U);
  EXPECT_EQ(script_->encoded.size(), 1U) << "small pictures go through the tower together";
  const auto again = encoder.encode(std::vector<std::filesystem::path>{two_, one_});
  EXPECT_EQ(script_->encoded.size(), 1U);
  EXPECT_EQ(again[0].features, first[1].features);
  EXPECT_EQ(again[1].features, first[0].features);
  const std::int64_t cells = first[0].grid[1] * first[0].grid[2] / (config_.merge * config_.merge);
  EXPECT_EQ(first[0].tokens(), cells);
  EXPECT_EQ(first[0].features->columns(), model_->config().text.hidden);
}

TEST_F(Pictures, TheOldestLeaveACacheThatIsFull) {
  PictureEncoder probe(*model_, config_, std::int64_t{1} << 30);
  const auto bytes = static_cast<std::int64_t>(probe.encode(one_).features->bytes());
  PictureEncoder encoder(*model_, config_, bytes);  // room for one of the two, which are of one size
  (void)encoder.encode(one_);
  (void)encoder.encode(two_);
  const std::size_t calls = script_->encoded.size();
  (void)encoder.encode(two_);
  EXPECT_EQ(script_->encoded.size(), calls) << "the newest is kept";
  const EncodedPicture held = encoder.encode(one_);
  EXPECT_EQ(script_->encoded.size(), calls + 1) << "the oldest is not";
  (void)encoder.encode(two_);
  EXPECT_EQ(call_of(held), static_cast<float>(calls + 1))
      << "features in use outlive their place in the cache";
}

TEST_F(Pictures, TheSamePictureTwiceInARequest) {
  PictureEncoder encoder(*model_, config_, std::int64_t{1} << 30);
  const auto encoded = encoder.encode(std::vector<std::filesystem::path>{one_, one_});
  ASSERT_EQ(encoded.size(), 2U);
  EXPECT_EQ(encoded[0].tokens(), encoded[1].tokens());
  (void)encoder.encode(one_);
  EXPECT_EQ(script_->encoded.size(), 1U);
}

TEST_F(Pictures, ManyPatchesGoInSeveralCallsAndKeepTheirOrder) {
  const PictureEncoder encoder(*model_, config_, 0);
  const std::int64_t columns = config_.columns();
  std::vector<Patches> pictures;
  for (const std::int64_t side : {60, 60, 60}) {  // 3,600 patches each, and 8,192 at once
    Patches& picture = pictures.emplace_back();
    picture.grid = {1, side, side};
    picture.values.assign(static_cast<std::size_t>(side * side * columns),
                          static_cast<float>(pictures.size()));
  }
  const auto encoded = encoder.encode(std::span<const Patches>(pictures));
  ASSERT_EQ(encoded.size(), 3U);
  EXPECT_EQ(script_->encoded, (std::vector<std::int64_t>{7200, 3600}));
  EXPECT_EQ(call_of(encoded[1]), 1);
  EXPECT_EQ(call_of(encoded[2]), 2);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(content_of(encoded[i]), std::vector<float>(900, static_cast<float>(i + 1))) << i;
}

/// With a tower on the CPU, and with one on a device.
class ManyPictures : public Pictures, public ::testing::WithParamInterface<bool> {
 protected:
  ManyPictures() : Pictures(GetParam()) {
    config_.min_pixels = config_.max_pixels = 64 * 64 * config_.patch * config_.patch;
  }
  /// The path of a new file. All are enlarged to 4,096 patches, so two go through the tower together.
  std::filesystem::path copy(const std::filesystem::path& picture) {
    auto path = folder_.path() / fmt::format("{}.png", copies_++);
    std::filesystem::copy_file(picture, path);
    return path;
  }
  TemporaryFolder folder_;
  int copies_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Devices, ManyPictures, ::testing::Bool());

TEST_P(ManyPictures, KeepTheirOrder) {
  PictureEncoder encoder(*model_, config_, std::int64_t{1} << 30);
  std::vector<std::filesystem::path> files;
  files.reserve(5);
  for (int i = 0; i < 5; ++i) files.push_back(copy(i % 2 == 0 ? one_ : two_));
  const auto encoded = encoder.encode(files);
  ASSERT_EQ(encoded.size(), 5U);
  EXPECT_EQ(script_->encoded, (std::vector<std::int64_t>{8192, 8192, 4096}));
  for (std::size_t i = 0; i < 5; ++i) {
    const std::size_t call = 1 + i / 2;  // two of them in each
    EXPECT_EQ(call_of(encoded[i]), static_cast<float>(call)) << i;
  }
  // Each of them alone, in a pass of its own.
  const std::vector<float> one = content_of(encoder.encode(one_)), two = content_of(encoder.encode(two_));
  ASSERT_NE(one, two);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(content_of(encoded[i]), i % 2 == 0 ? one : two) << i;
}

TEST_P(ManyPictures, TheFirstBadFileInOrderIsNamed) {
  PictureEncoder encoder(*model_, config_, std::int64_t{1} << 30);
  std::vector<std::filesystem::path> files{copy(one_), copy(two_), copy(one_)};
  files.push_back(folder_.write("no_image_a.png", "nothing"));
  files.push_back(folder_.write("no_image_b.png", "nothing"));
  for (int repeat = 0; repeat < 20; ++repeat) {
    try {
      (void)encoder.encode(files);
      FAIL() << "must be refused";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("no_image_a.png"));
    }
  }
  EXPECT_EQ(script_->encoded, (std::vector<std::int64_t>{8192})) << "the first pass is kept";
}

TEST_F(Pictures, AFileThatIsNoPictureIsNamed) {
  PictureEncoder encoder(*model_, config_, std::int64_t{1} << 30);
  const TemporaryFolder folder;
  const auto missing = folder.path() / "missing.png";
  try {
    (void)encoder.encode(std::vector<std::filesystem::path>{one_, missing});
    FAIL() << "must be refused";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("missing.png"));
  }
}

}  // namespace
}  // namespace biqa
