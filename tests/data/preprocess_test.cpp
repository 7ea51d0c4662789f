// SPDX-License-Identifier: Apache-2.0
#include "data/preprocess.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/hdf5.h"
#include "io/json.h"
#include "support/sha256.h"
#include "support/shared_folder.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kFixtures = fs::path(BIQA_SOURCE_DIR) / "tests/fixtures/images";

std::string digest(const Image& image) {
  return sha256(std::as_bytes(std::span(image.rgb)));
}
std::string digest(const Patches& patches) {
  return sha256(std::as_bytes(std::span(patches.values)));
}

nlohmann::json expected(const char* key) {
  return read_json(kFixtures / "expected.json")[key];
}

void expect_sizes(const nlohmann::json& rows) {
  for (const auto& row : rows) {
    const auto resize = [&] { return smart_resize(row[0], row[1], 28, row[2], row[3]); };
    if (row[4].is_null()) {
      EXPECT_THROW(resize(), Error) << row;
    } else {
      EXPECT_EQ(resize(), (Size{row[4][0], row[4][1]})) << row;
    }
  }
}

TEST(SmartResizeTest, AgreesWithTheReference) {
  const nlohmann::json rows = expected("smart_resize");
  ASSERT_EQ(rows.size(), 40U);
  expect_sizes(rows);
}

TEST(SmartResizeTest, AgreesWithTheGoldens) {
  BIQA_REQUIRE_SHARED(shared);
  const nlohmann::json rows = read_json(shared / "golden/preprocess.json")["smart_resize"];
  ASSERT_EQ(rows.size(), 300U);
  expect_sizes(rows);
}

TEST(SmartResizeTest, RoundsHalfToEvenAndRefusesThreads) {
  EXPECT_EQ(smart_resize(70, 98, 28, 1, 1 << 20), (Size{56, 112}));
  EXPECT_EQ(smart_resize(10, 500, 28, 3136, 1 << 20), (Size{28, 420}));
  EXPECT_THROW(smart_resize(201, 1, 28, 1, 1 << 20), Error);
  EXPECT_THROW(smart_resize(0, 5, 28, 1, 1 << 20), Error);
}

TEST(ResizeBicubicTest, IsBitEqualToPillowInBothOrders) {
  const Image image = read_image(kFixtures / "rgb.png");
  int orders_differ = 0;
  for (const auto& row : expected("resizes_of_rgb_png")) {
    const Size size{row["height_width"][0], row["height_width"][1]};
    const auto filter = static_cast<ResizeFilter>(row.value("filter", 3));
    const Image resized = resize(image, size, filter);
    EXPECT_EQ(resized.height, size.height);
    EXPECT_EQ(resized.width, size.width);
    EXPECT_EQ(digest(resized), row["sha256"].get<std::string>()) << row;
    EXPECT_EQ(digest(resize(image, size, filter, ResizeOrder::rows_first)),
              row["sha256_rows_first"].get<std::string>())
        << row;
    orders_differ += row["sha256"] != row["sha256_rows_first"] ? 1 : 0;
  }
  EXPECT_GE(orders_differ, 2);
}

TEST(PreprocessTest, PixelValuesAreBitEqualToTheReference) {
  const nlohmann::json rows = expected("pixel_values");
  ASSERT_EQ(rows.size(), 4U);
  for (const auto& row : rows) {
    PreprocessConfig config;
    config.min_pixels = row["min_pixels"];
    config.max_pixels = row["max_pixels"];
    config.filter = static_cast<ResizeFilter>(row.value("resample", 3));
    if (row.contains("image_std")) config.std = row["image_std"];
    const Patches patches = preprocess(read_image(kFixtures / row["file"].get<std::string>()), config);
    EXPECT_EQ(nlohmann::json(patches.grid), row["grid"]) << row;
    EXPECT_EQ(patches.values.size(), static_cast<std::size_t>(patches.rows() * 1176)) << row;
    EXPECT_EQ(patches.tokens(2) * 4, patches.rows()) << row;
    EXPECT_EQ(digest(patches), row["sha256"].get<std::string>()) << row;
  }
}

TEST(PreprocessTest, GoldenPicturesAreBitEqual) {
  BIQA_REQUIRE_SHARED(shared);
  const nlohmann::json rows = read_json(shared / "golden/preprocess.json")["images"];
  const Hdf5File arrays(shared / "golden/preprocess.h5");
  int other_orders = 0;
  int compared_arrays = 0;
  for (const auto& row : rows) {
    const std::string file = row["file"];
    const std::string group = row["group"];
    Image image;
    if (file.find("grey16") != std::string::npos) {
      // Pillow loses this picture and read_image does not: start from what Pillow made of it.
      std::vector<std::int64_t> shape;
      image.rgb = arrays.read_u8(group + "/rgb", &shape);
      image.height = shape[0];
      image.width = shape[1];
    } else {
      image = read_image(shared / "golden" / file);
    }
    PreprocessConfig config;
    config.min_pixels = row["min_pixels"];
    config.max_pixels = row["max_pixels"];
    const Size size =
        smart_resize(image.height, image.width, config.factor(), config.min_pixels, config.max_pixels);
    EXPECT_EQ(size, (Size{row["resized_height_width"][0], row["resized_height_width"][1]})) << file;
    const Image resized = resize(image, size);
    EXPECT_EQ(digest(resized), row["sha256_resized"].get<std::string>()) << file;
    const std::string rows_first =
        digest(resize(image, size, ResizeFilter::bicubic, ResizeOrder::rows_first));
    if (row.contains("sha256_resized_horizontal_first")) {
      EXPECT_EQ(rows_first, row["sha256_resized_horizontal_first"].get<std::string>()) << file;
      ++other_orders;
    } else {
      EXPECT_EQ(rows_first, row["sha256_resized"].get<std::string>()) << file;
    }
    const Patches patches = preprocess(image, config);
    EXPECT_EQ(nlohmann::json(patches.grid), row["image_grid_thw"]) << file;
    EXPECT_EQ(digest(patches), row["sha256_pixel_values"].get<std::string>()) << file;
    if (arrays.exists(group + "/resized")) {
      EXPECT_EQ(resized.rgb, arrays.read_u8(group + "/resized")) << file;
      ++compared_arrays;
    }
    if (arrays.exists(group + "/pixel_values")) {
      EXPECT_EQ(patches.values, arrays.read_f32(group + "/pixel_values")) << file;
      ++compared_arrays;
    }
    if (arrays.exists(group + "/pixel_values_torchvision") &&
        row["torchvision_resize"]["largest_difference"] == 0) {
      const std::vector<float> other = arrays.read_f32(group + "/pixel_values_torchvision");
      ASSERT_EQ(patches.values.size(), other.size()) << file;
      for (std::size_t i = 0; i < other.size(); ++i) {
        ASSERT_NEAR(patches.values[i], other[i], 2.4e-7) << file;
      }
      ++compared_arrays;
    }
  }
  EXPECT_EQ(rows.size(), 26U);
  EXPECT_GE(other_orders, 2);
  EXPECT_GE(compared_arrays, 10);
}

TEST(PatchesTest, RowsAndColumnsFollowTheDefinition) {
  PreprocessConfig config;
  config.patch = 2;
  config.merge = 3;
  config.temporal = 2;
  Image image{12, 6, {}};
  for (std::size_t i = 0; i < 12 * 6 * 3; ++i) {
    image.rgb.push_back(static_cast<std::uint8_t>(i));
  }
  const Patches patches = to_patches(image, config);
  EXPECT_EQ(patches.grid, (std::array<std::int64_t, 3>{1, 3, 6}));
  EXPECT_EQ(patches.tokens(3), 2);
  ASSERT_EQ(patches.values.size(), 18U * 24U);
  for (std::int64_t y = 0; y < 6; ++y) {
    for (std::int64_t x = 0; x < 12; ++x) {
      for (std::int64_t c = 0; c < 3; ++c) {
        const std::int64_t token = y / 6 * 2 + x / 6;
        const std::int64_t row = token * 9 + y % 6 / 2 * 3 + x % 6 / 2;
        const auto channel = static_cast<std::size_t>(c);
        const float unit =
            static_cast<float>(image.rgb[static_cast<std::size_t>((y * 12 + x) * 3 + c)] / 255.0);
        const float value = (unit - config.mean[channel]) / config.std[channel];
        for (std::int64_t t = 0; t < 2; ++t) {
          const std::int64_t column = ((c * 2 + t) * 2 + y % 2) * 2 + x % 2;
          EXPECT_NEAR(patches.values[static_cast<std::size_t>(row * 24 + column)], value, 3e-7);
        }
      }
    }
  }
}

class PreprocessConfigTest : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) const { folder_.write(name, text); }
  PreprocessConfig load() const { return PreprocessConfig::load(folder_.path()); }
  TemporaryFolder folder_;
};

TEST_F(PreprocessConfigTest, WithoutFilesTheDefaultsHold) {
  const PreprocessConfig config = load();
  EXPECT_EQ(config.min_pixels, 3136);
  EXPECT_EQ(config.max_pixels, 12845056);
  EXPECT_EQ(config.factor(), 28);
  EXPECT_EQ(config.columns(), 1176);
}

TEST_F(PreprocessConfigTest, BothSpellingsOfTheAreasAreRead) {
  write("preprocessor_config.json", R"({"min_pixels": 4000, "max_pixels": 5000, "image_mean": [0.1, 0.2, 0.3],
    "image_std": [1, 2, 3], "patch_size": 16, "merge_size": 3, "temporal_patch_size": 1, "size": null})");
  PreprocessConfig config = load();
  EXPECT_EQ(config.min_pixels, 4000);
  EXPECT_EQ(config.max_pixels, 5000);
  EXPECT_EQ(config.mean, (std::array<float, 3>{0.1F, 0.2F, 0.3F}));
  EXPECT_EQ(config.std, (std::array<float, 3>{1, 2, 3}));
  EXPECT_EQ(config.factor(), 48);
  EXPECT_EQ(config.temporal, 1);
  write("preprocessor_config.json", R"({"size": {"shortest_edge": 4000, "longest_edge": 5000}})");
  EXPECT_EQ(load().min_pixels, 4000);
  EXPECT_EQ(load().max_pixels, 5000);
  write("preprocessor_config.json",
        R"({"size": {"shortest_edge": 4000, "longest_edge": 5000}, "max_pixels": 6000})");
  EXPECT_EQ(load().min_pixels, 4000);
  EXPECT_EQ(load().max_pixels, 6000);
  write("preprocessor_config.json", "{}");
  EXPECT_EQ(load().max_pixels, 1003520);
}

// What transformers 5.24 makes of each.
TEST_F(PreprocessConfigTest, SpellingsOfTheAreasAreThoseOfTheReference) {
  struct Spelling {
    std::string text;
    std::int64_t min, max;
  };
  const std::vector<Spelling> spellings = {
      {R"({"min_pixels": 4000, "max_pixels": 5000, "size": {"min_pixels": 4000, "max_pixels": 5000}})", 4000,
       5000},
      {R"({"min_pixels": 4000, "max_pixels": 5000, "size": {"shortest_edge": 1, "longest_edge": 2}})", 4000,
       5000},
      {R"({"min_pixels": 4000, "max_pixels": 5000, "size": {}})", 4000, 5000},
      {R"({"max_pixels": 5000, "size": {"shortest_edge": 4000}})", 4000, 5000},
      {R"({"min_pixels": 4000, "size": {"longest_edge": 5000}})", 4000, 5000},
      {R"({"min_pixels": null, "max_pixels": null, "size": {"shortest_edge": 4000, "longest_edge": 5000}})",
       4000, 5000},
      {R"({"min_pixels": 4000.0, "max_pixels": 5e3})", 4000, 5000},
      {R"({"min_pixels": 9000, "max_pixels": 5000})", 9000, 5000},
      {R"({"min_pixels": 4000})", 4000, 1003520},
      {R"({"max_pixels": 5000})", 3136, 5000},
      {R"({"size": null})", 3136, 1003520},
      {R"({"min_pixels": 4000, "max_pixels": 5000, "crop_size": {"height": 224, "width": 224}, "do_center_crop": true,
           "do_pad": true, "do_convert_rgb": false, "do_resize": 1, "feature_extractor_type": "Qwen2VLFeatureExtractor",
           "size_divisor": 32, "max_size": 100, "default_to_square": true, "data_format": "channels_first"})",
       4000, 5000}};
  for (const Spelling& spelling : spellings) {
    write("preprocessor_config.json", spelling.text);
    EXPECT_EQ(load().min_pixels, spelling.min) << spelling.text;
    EXPECT_EQ(load().max_pixels, spelling.max) << spelling.text;
  }
  write("preprocessor_config.json", R"({"max_pixels": 1e30})");
  EXPECT_GT(load().max_pixels, 178'956'970);  // no picture is larger
}

TEST_F(PreprocessConfigTest, StepsThatAreLeftOutAreLeftOut) {
  write("preprocessor_config.json", R"({"do_rescale": false, "image_mean": 0.5, "image_std": 0.25})");
  EXPECT_EQ(load().scale, 1);
  EXPECT_EQ(load().mean, (std::array<float, 3>{0.5F, 0.5F, 0.5F}));
  EXPECT_EQ(load().std, (std::array<float, 3>{0.25F, 0.25F, 0.25F}));
  write("preprocessor_config.json", R"({"do_normalize": false, "rescale_factor": 0.5})");
  const PreprocessConfig config = load();
  const Image grey{28, 28, std::vector<std::uint8_t>(28 * 28 * 3, 7)};
  EXPECT_THAT(to_patches(grey, config).values, ::testing::Each(3.5F));
}

TEST_F(PreprocessConfigTest, LimitsThatAreAskedForHold) {
  write("preprocessor_config.json", R"({"min_pixels": 4000, "max_pixels": 5000})");
  const auto limited = [&](const PixelLimits& asked) {
    PreprocessConfig config = load();
    config.limit(asked);
    return std::pair(config.min_pixels, config.max_pixels);
  };
  using Limits = std::pair<std::int64_t, std::int64_t>;
  EXPECT_EQ(limited({}), (Limits{4000, 5000}));
  EXPECT_EQ(limited({1000, 9000}), (Limits{1000, 9000}));
  EXPECT_EQ(limited({4500, 4600}), (Limits{4500, 4600}));
  EXPECT_EQ(limited({0, 9000}), (Limits{4000, 9000}));
  // Defaults that nobody wrote down only narrow.
  EXPECT_EQ(limited({1000, 9000, false, false}), (Limits{4000, 5000}));
  EXPECT_EQ(limited({4500, 4600, false, false}), (Limits{4500, 4600}));
}

TEST_F(PreprocessConfigTest, TheCombinedFileGoesFirstWhereItSpeaksOfPictures) {
  write("preprocessor_config.json", R"({"max_pixels": 5000})");
  write("processor_config.json", R"({"processor_class": "Qwen2_5_VLProcessor"})");
  EXPECT_EQ(load().max_pixels, 5000);
  write("processor_config.json",
        R"({"image_processor": {"max_pixels": 6000}, "video_processor": {"max_pixels": 7000}})");
  EXPECT_EQ(load().max_pixels, 6000);
}

TEST_F(PreprocessConfigTest, WhatCannotBeFollowedIsRefusedByKey) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "preprocessor_config.json"},
      {"{\"min", "preprocessor_config.json"},
      {R"({"min_pixels": -1})", "min_pixels"},
      {R"({"max_pixels": 5000.5})", "max_pixels"},
      {R"({"max_pixels": "5000"})", "max_pixels"},
      {R"({"patch_size": "14"})", "patch_size"},
      {R"({"merge_size": 0})", "merge_size"},
      {R"({"image_std": [1, 0, 1]})", "image_std"},
      {R"({"image_std": [-0.5, 1, 1]})", "image_std"},
      {R"({"image_mean": [1, 2]})", "image_mean"},
      {R"({"image_mean": [1, 2, "x"]})", "image_mean"},
      {R"({"size": {"height": 28, "width": 28}})", "shortest_edge"},
      {R"({"size": {"min_pixels": 3136, "max_pixels": 5000}})", "shortest_edge"},
      {R"({"size": {"shortest_edge": 3136}})", "longest_edge"},
      {R"({"size": 224, "max_pixels": 5000})", "size"},
      {R"({"do_resize": false})", "do_resize"},
      {R"({"resample": 0})", "4 (box)"},
      {R"({"resample": 6})", "2 (bilinear), 3 (bicubic)"},
      {R"({"resample": "bilinear"})", "resample"},
      {R"({"rescale_factor": 0})", "rescale_factor"},
  };
  for (const auto& [text, named] : cases) {
    write("preprocessor_config.json", text);
    EXPECT_THAT(error_of([&] { load(); }), HasSubstr(named)) << text;
  }
}

TEST_F(PreprocessConfigTest, GoldenFoldersLoad) {
  BIQA_REQUIRE_SHARED(shared);
  EXPECT_EQ(PreprocessConfig::load(shared / "golden/models/both-tied").max_pixels, 12544);
  for (const char* model : {"flat-tied", "nested-sharded", "seven-bf16", "partial-vision"}) {
    const PreprocessConfig config = PreprocessConfig::load(shared / "golden/models" / model);
    EXPECT_EQ(config.min_pixels, 3136) << model;
    EXPECT_EQ(config.max_pixels, 12845056) << model;
    EXPECT_EQ(config.mean, PreprocessConfig{}.mean) << model;
    EXPECT_EQ(config.std, PreprocessConfig{}.std) << model;
  }
}

}  // namespace
}  // namespace biqa
