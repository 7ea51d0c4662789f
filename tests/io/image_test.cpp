// SPDX-License-Identifier: Apache-2.0
#include "io/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/files.h"
#include "io/image_formats.h"
#include "io/json.h"
#include "support/sha256.h"
#include "support/shared_folder.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kFixtures = fs::path(BIQA_SOURCE_DIR) / "tests/fixtures/images";

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string digest(const Image& image) {
  return sha256(std::as_bytes(std::span(image.rgb)));
}

/// The message of the Error that decoding ends in; empty if it ends in a picture.
std::string refusal(const std::string& content, const ImageLimits& limits = {}) {
  try {
    decode_image(bytes_of(content), "a/picture", limits);
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("a/picture"));
    EXPECT_THAT(error.what(), ::testing::Not(HasSubstr("\n")));
    return error.what();
  }
  return "";
}

std::string big_endian(std::uint32_t value) {
  std::string text;
  for (int shift = 24; shift >= 0; shift -= 8) {
    text += static_cast<char>(value >> shift & 255);
  }
  return text;
}

std::string little_endian(std::uint32_t value, int count) {
  std::string text;
  for (int i = 0; i < count; ++i, value >>= 8) {
    text += static_cast<char>(value & 255);
  }
  return text;
}

TEST(ImageTest, EveryKindOfFileIsReadAsTheReferenceReadsIt) {
  const nlohmann::json expected = read_json(kFixtures / "expected.json")["pictures"];
  ASSERT_GT(expected.size(), 50U);
  for (const auto& [name, entry] : expected.items()) {
    const Image image = read_image(kFixtures / name);
    EXPECT_EQ(image.height, entry["height_width"][0]) << name;
    EXPECT_EQ(image.width, entry["height_width"][1]) << name;
    if (!entry.contains("within_1_of")) {
      EXPECT_EQ(digest(image), entry["sha256"].get<std::string>()) << name;
      continue;
    }
    const Image near = read_image(kFixtures / entry["within_1_of"].get<std::string>());
    ASSERT_EQ(image.rgb.size(), near.rgb.size()) << name;
    for (std::size_t i = 0; i < image.rgb.size(); ++i) {
      EXPECT_NEAR(image.rgb[i], near.rgb[i], 1) << name << " sample " << i;
    }
  }
}

TEST(ImageTest, GoldenPicturesAreReadAsTheReferenceReadsThem) {
  BIQA_REQUIRE_SHARED(shared);
  const nlohmann::json rows = read_json(shared / "golden/preprocess.json")["images"];
  ASSERT_GT(rows.size(), 20U);
  for (const auto& row : rows) {
    const std::string file = row["file"];
    if (file.find("grey16") != std::string::npos) {
      continue;  // decided otherwise: see read_image
    }
    const Image image = read_image(shared / "golden" / file);
    EXPECT_EQ(image.height, row["height_width"][0]) << file;
    EXPECT_EQ(image.width, row["height_width"][1]) << file;
    EXPECT_EQ(digest(image), row["sha256_rgb"].get<std::string>()) << file;
  }
}

TEST(ImageTest, TheContentDecidesNotTheName) {
  const TemporaryFolder folder;
  fs::copy_file(kFixtures / "lossless.webp", folder.path() / "picture.jpg");
  EXPECT_EQ(read_image(folder.path() / "picture.jpg").rgb, read_image(kFixtures / "lossless.webp").rgb);
}

TEST(ImageTest, WrittenPngReadsBack) {
  const TemporaryFolder folder;
  Image image{5, 3, {}};
  for (std::size_t i = 0; i < 45; ++i) {
    image.rgb.push_back(static_cast<std::uint8_t>(i * 37));
  }
  write_png(folder.path() / "picture.png", image);
  const Image again = read_image(folder.path() / "picture.png");
  EXPECT_EQ(again.width, 5);
  EXPECT_EQ(again.height, 3);
  EXPECT_EQ(again.rgb, image.rgb);
  EXPECT_THROW(write_png(folder.path() / "no/such/folder.png", image), Error);
}

TEST(ImageTest, WhatIsNoPictureIsRefusedByName) {
  const TemporaryFolder folder;
  EXPECT_THROW(read_image(folder.path() / "missing.png"), Error);
  EXPECT_THROW(read_image(folder.path()), Error);
  EXPECT_THAT(refusal(""), HasSubstr("empty"));
  EXPECT_THAT(refusal("P"), HasSubstr("not a readable image"));
  EXPECT_THAT(refusal("dear reader, this is a text"), HasSubstr("not a readable image"));
  EXPECT_THAT(refusal("GIF89a and so on"), HasSubstr("not a readable image"));
}

std::string png_without_pixels(std::uint32_t side) {
  // The check sum is that of this chunk.
  const std::string header = "IHDR" + big_endian(side) + big_endian(side) + std::string("\x08\x02\0\0\0", 5);
  std::uint32_t crc = ~0U;
  for (const char c : header) {
    crc ^= static_cast<std::uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) {
      crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320U : 0U);
    }
  }
  return "\x89PNG\r\n\x1A\n" + big_endian(13) + header + big_endian(~crc) + big_endian(0) + "IDAT" +
         big_endian(0x35AF061E);
}

/// An entry of a TIFF directory.
std::string entry(std::uint32_t tag, std::uint32_t type, std::uint32_t count, std::uint32_t value) {
  return little_endian(tag, 2) + little_endian(type, 2) + little_endian(count, 4) + little_endian(value, 4);
}

/// A TIFF file with a directory and 64 bytes after it.
std::string tiff(const std::vector<std::string>& entries) {
  std::string text =
      std::string("II*\0\x08\0\0\0", 8) + little_endian(static_cast<std::uint32_t>(entries.size()), 2);
  for (const std::string& one : entries) {
    text += one;
  }
  return text + little_endian(0, 4) + std::string(64, '\0');
}

TEST(ImageTest, SizesOutsideTheLimitsAreRefusedFromTheHeader) {
  EXPECT_THAT(refusal("P6 50000 1 255\n"), HasSubstr("aspect"));
  const TemporaryFolder folder;
  write_png(folder.path() / "thread.png", {50000, 1, std::vector<std::uint8_t>(150000)});
  EXPECT_THAT(refusal(read_file(folder.path() / "thread.png")),
              HasSubstr("50000 x 1 pixels have an aspect ratio above 200"));
  EXPECT_THAT(refusal("P6 0 5 255\n"), HasSubstr("0 x 5"));
  EXPECT_THAT(refusal("P6 999999999999 999999999999 255\n"), HasSubstr("limit"));
  // None of these holds a single pixel; each would need gigabytes.
  EXPECT_THAT(refusal(png_without_pixels(60000)), HasSubstr("60000 x 60000"));
  EXPECT_THAT(
      refusal("BM" + little_endian(0, 12) + little_endian(40, 4) + little_endian(60000, 4) +
              little_endian(60000, 4) + little_endian(1, 2) + little_endian(24, 2) + little_endian(0, 24)),
      HasSubstr("60000 x 60000"));
  std::string jpeg = read_file(kFixtures / "chroma_444.jpg");
  const std::size_t frame = jpeg.find("\xFF\xC0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xEA\x60\xEA\x60");
  EXPECT_THAT(refusal(jpeg), HasSubstr("60000 x 60000"));
  // A JPEG within the limits that announces more pixels than it has.
  jpeg.replace(frame + 5, 4, std::string("\x01\x00\x01\x00", 4));
  EXPECT_THAT(refusal(jpeg), HasSubstr("Corrupt JPEG data"));
  for (const char* name : {"rgb.tif", "lossy.webp", "rgb.png", "rgb.ppm", "rgb.bmp", "grey.jpg"}) {
    EXPECT_THAT(refusal(read_file(kFixtures / name), {.max_pixels = 100}), HasSubstr("limit of 100")) << name;
  }
  const fs::path file = kFixtures / "rgb.bmp";
  EXPECT_THROW(read_image(file, {.max_file_bytes = 100}), Error);
  EXPECT_NO_THROW(read_image(file, {.max_file_bytes = static_cast<std::int64_t>(fs::file_size(file))}));
}

TEST(ImageTest, AbsurdTiffTagsClaimNoMemory) {
  EXPECT_NE(
      refusal(tiff({entry(256, 4, 1, 16), entry(257, 4, 1, 16), entry(258, 3, 1, 8), entry(262, 3, 1, 1),
                    entry(273, 4, 0x3FFFFFFF, 8), entry(278, 4, 1, 16), entry(279, 4, 0x3FFFFFFF, 8)})),
      "");
  EXPECT_NE(refusal(tiff({entry(256, 4, 1, 16), entry(257, 4, 1, 16), entry(258, 3, 1, 8),
                          entry(262, 3, 1, 1), entry(322, 4, 1, 0x40000000), entry(323, 4, 1, 0x40000000),
                          entry(324, 4, 1, 8), entry(325, 4, 1, 16)})),
            "");
  EXPECT_THAT(refusal(tiff({entry(256, 4, 1, 60000), entry(257, 4, 1, 60000), entry(258, 3, 1, 8),
                            entry(262, 3, 1, 1), entry(273, 4, 1, 8), entry(279, 4, 1, 16)})),
              HasSubstr("60000 x 60000"));
  EXPECT_NE(refusal(tiff({})), "");
}

TEST(ImageTest, ATiffWithoutItsWholePaletteIsRefused) {
  // 8 x 8 indices, and after them the palette. libtiff would take the indices for grey values.
  const std::string indices =
      tiff({entry(256, 4, 1, 8), entry(257, 4, 1, 8), entry(258, 3, 1, 8), entry(259, 3, 1, 1),
            entry(262, 3, 1, 3), entry(273, 4, 1, 134), entry(277, 3, 1, 1), entry(278, 4, 1, 8),
            entry(279, 4, 1, 64), entry(320, 3, 768, 198)});
  ASSERT_EQ(indices.size(), 198U);
  const std::string whole = indices + std::string(1536, '\x7f');
  EXPECT_EQ(refusal(whole), "");
  for (const std::size_t bytes : {std::size_t{198}, std::size_t{300}, whole.size() - 1})
    EXPECT_THAT(refusal(whole.substr(0, bytes)), HasSubstr("ColorMap")) << bytes;
}

/// Largest memory, in bytes, of a process that decodes this content.
std::int64_t memory_for(const std::string& content) {
  const pid_t child = ::fork();
  if (child == 0) {
    refusal(content);
    ::_exit(0);
  }
  int status = 0;
  rusage usage{};
  EXPECT_EQ(::wait4(child, &status, 0, &usage), child);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

TEST(ImageTest, HeadersThatLieClaimNoMemory) {
  constexpr std::uint32_t kSide = 13000;
  constexpr std::int64_t kPixels = std::int64_t{kSide} * kSide, kMost = 2 * kPixels;
  constexpr std::uint32_t kNone = 1, kLzw = 5, kDeflate = 8, kPackBits = 32773;
  for (const std::uint32_t compression : {kNone, kLzw, kDeflate, kPackBits}) {
    const std::string content =
        tiff({entry(256, 4, 1, kSide), entry(257, 4, 1, kSide), entry(258, 3, 1, 8),
              entry(259, 3, 1, compression), entry(262, 3, 1, 1), entry(273, 4, 1, 122), entry(277, 3, 1, 1),
              entry(278, 4, 1, kSide), entry(279, 4, 1, 64)});
    EXPECT_THAT(refusal(content),
                ::testing::ContainsRegex("13000 x 13000 pixels need at least [0-9]+ bytes, but "
                                         "it has only 64"));
    EXPECT_LT(memory_for(content), kMost) << "compression " << compression;
  }
  EXPECT_LT(memory_for(png_without_pixels(kSide)), kMost);
  std::string jpeg = read_file(kFixtures / "chroma_444.jpg");
  jpeg.replace(jpeg.find("\xFF\xC0") + 5, 4, "\x32\xC8\x32\xC8");
  EXPECT_THAT(refusal(jpeg), HasSubstr("Corrupt JPEG data"));
  EXPECT_LT(memory_for(jpeg), kMost);
}

TEST(ImageTest, JpegScansAreLimited) {
  const std::string file = read_file(kFixtures / "progressive.jpg");
  // The first scan, of the averages only, may be repeated without changing the picture.
  const std::size_t start = file.find("\xFF\xDA");
  const std::size_t end = file.find("\xFF\xC4", start);
  ASSERT_NE(end, std::string::npos);
  const auto repeated = [&](int times) {
    std::string content = file.substr(0, start);
    for (int i = 0; i < times; ++i) {
      content += file.substr(start, end - start);
    }
    return content + file.substr(end);
  };
  EXPECT_EQ(refusal(repeated(400)), "");
  EXPECT_THAT(refusal(repeated(600)), HasSubstr("more than 500 scans"));
  // The larger the image, the fewer: an image of 64 megapixels with 300 scans took minutes.
  EXPECT_EQ(image::max_scans(0, 0), 500);
  EXPECT_EQ(image::max_scans(2000, 2000), 500);
  EXPECT_EQ(image::max_scans(8000, 8000), 31);
  EXPECT_EQ(image::max_scans(13000, 13000), 20);
}

TEST(ImageTest, SmallLiesInHeadersAreRefused) {
  EXPECT_THAT(refusal("P5 2 2 100\n\x01\x02\x03\x70"), HasSubstr("112 above the maximum of 100"));
  EXPECT_THAT(refusal("P5 2 2 70000\n1234567890"), HasSubstr("maximum of 70000"));
  EXPECT_THAT(refusal("P2 2 2 9\n1 2 x 4"), HasSubstr("no sample at byte"));
  EXPECT_THAT(refusal("P1 2 2\n1 0 1 2"), HasSubstr("no pixel at byte"));
  EXPECT_THAT(refusal("P6 2 # no height"), HasSubstr("ends too early"));
  std::string palette = read_file(kFixtures / "palette.bmp");
  palette[46] = 3;  // colours in the palette
  EXPECT_THAT(refusal(palette), HasSubstr("outside the palette of 3"));
  std::string run_length = read_file(kFixtures / "rgb.bmp");
  run_length[30] = 1;
  EXPECT_THAT(refusal(run_length), HasSubstr("compression 1"));
}

/// Names, contents and pictures of all fixtures.
struct Fixture {
  std::string name;
  std::string content;
  Image image;
};

std::vector<Fixture> load_fixtures() {
  std::vector<Fixture> fixtures;
  const nlohmann::json expected = read_json(kFixtures / "expected.json")["pictures"];
  for (const auto& [name, entry] : expected.items()) {
    const fs::path path = kFixtures / name;
    fixtures.push_back({name, read_file(path), read_image(path)});
  }
  return fixtures;
}

/// Where a file may be cut without loss of pixels: a PNG without the four bytes of the pixels' sum, and without the mark
/// before it, which may fill a byte. In a TIFF with late texts nobody knows.
std::size_t end_of_pixels(const Fixture& fixture) {
  if (fixture.name.ends_with("late.tif")) return 0;
  if (!fixture.name.ends_with(".png"))
    return fixture.content.size() - std::min<std::size_t>(fixture.content.size(), 4);
  const std::size_t last = fixture.content.rfind("IDAT");
  std::size_t length = 0;
  for (std::size_t i = last - 4; i < last; ++i)
    length = length << 8 | static_cast<std::uint8_t>(fixture.content[i]);
  return last + 4 + length - 5;
}

TEST(ImageTest, NoTruncatedFileYieldsAPicture) {
  for (const Fixture& fixture : load_fixtures()) {
    const bool plain = fixture.name.starts_with("plain");
    // What is behind the pixels may tell how they are turned, as in Pillow.
    const bool late = fixture.name.find("late") != std::string::npos;
    const std::size_t end = end_of_pixels(fixture);
    for (std::size_t size = 0; size < fixture.content.size(); ++size) {
      if (!refusal(fixture.content.substr(0, size)).empty()) {
        continue;
      }
      // What is missing does not belong to the pixels: a line end, padding, or the rest of a last number.
      EXPECT_GE(size, end) << fixture.name;
      Image image = decode_image(bytes_of(fixture.content).subspan(0, size), fixture.name);
      Image whole = fixture.image;
      if (late) {
        std::sort(image.rgb.begin(), image.rgb.end());
        std::sort(whole.rgb.begin(), whole.rgb.end());
      }
      EXPECT_TRUE(plain || image.rgb == whole.rgb) << fixture.name << " cut at " << size;
    }
  }
}

TEST(ImageTest, PngPixelsAreCheckedByTheirOwnSum) {
  const std::string whole = read_file(kFixtures / "upright.png");
  const std::size_t pixels = whole.find("IDAT") + 4;
  std::string changed = whole;
  changed[whole.size() - 14] ^= 1;  // of the chunk
  EXPECT_EQ(decode_image(bytes_of(changed), "a/picture").rgb, decode_image(bytes_of(whole), "a/picture").rgb);
  for (const std::size_t place : {pixels + 30, whole.size() - 17}) {  // of the pixels, and of their sum
    changed = whole;
    changed[place] ^= 1;
    EXPECT_NE(refusal(changed), "");
    EXPECT_NE(refusal(changed.substr(0, whole.size() - 16)), "");
  }
}

TEST(ImageTest, KindsThatAreNotReadAreNamed) {
  EXPECT_THAT(refusal("GIF89a and so on"), HasSubstr("a GIF"));
  EXPECT_THAT(refusal(std::string("\0\0\0\x18", 4) + "ftypheic and so on"), HasSubstr("a HEIC picture"));
  EXPECT_THAT(refusal(std::string("\0\0\0\x18", 4) + "ftypavif and so on"), HasSubstr("an AVIF picture"));
  EXPECT_THAT(refusal(std::string("\0\x05\x16\x07", 4) + " and so on"), HasSubstr("AppleDouble"));
}

TEST(ImageTest, DamagedFilesNeverCrash) {
  std::mt19937 random(5);
  const ImageLimits limits{.max_pixels = 1 << 16};
  int pictures = 0;
  int refused = 0;
  for (const Fixture& fixture : load_fixtures()) {
    for (int round = 0; round < 100; ++round) {
      std::string content = fixture.content;
      for (int flips = 1 + static_cast<int>(random() % 4); flips > 0; --flips) {
        // Half of them in the header, where sizes and offsets are.
        const std::size_t range =
            random() % 2 == 0 ? content.size() : std::min<std::size_t>(content.size(), 64);
        content[random() % range] = static_cast<char>(random());
      }
      (refusal(content, limits).empty() ? pictures : refused) += 1;
    }
  }
  RecordProperty("pictures", pictures);
  RecordProperty("refused", refused);
  EXPECT_GT(pictures, 0);
  EXPECT_GT(refused, 0);
}

TEST(ImageHeader, GivesTheSizeOfEveryFixture) {
  for (const auto& entry : fs::directory_iterator(kFixtures)) {
    if (entry.path().extension() == ".json") continue;
    SCOPED_TRACE(entry.path().filename());
    const Image image = read_image(entry.path());
    const ImageSize size = read_image_size(entry.path());
    // Before orientation: sides may be swapped.
    EXPECT_EQ(std::minmax(size.width, size.height), std::minmax(image.width, image.height));
  }
}

TEST(ImageHeader, MayBeLongOrStandAtTheEnd) {
  const TemporaryFolder folder;
  const std::string jpeg = file_content(kFixtures / "chroma_420.jpg");
  // Comments of 180 kB before the header.
  std::string comments;
  for (int i = 0; i < 3; ++i) comments += "\xFF\xFE" + big_endian(60002).substr(2) + std::string(60000, 'c');
  const ImageSize plain = read_image_size(kFixtures / "chroma_420.jpg");
  const ImageSize late =
      read_image_size(folder.write("late.jpg", jpeg.substr(0, 2) + comments + jpeg.substr(2)));
  EXPECT_EQ(late.width, plain.width);
  EXPECT_EQ(late.height, plain.height);
  // A TIFF whose directory is moved behind 100 kB of nothing.
  std::string tiff = file_content(kFixtures / "rgb.tif");
  ASSERT_EQ(tiff.substr(0, 2), "II");
  std::uint32_t at = 0;
  for (std::size_t i = 4; i-- > 0;) at = at << 8 | static_cast<std::uint8_t>(tiff[4 + i]);
  const std::string directory = tiff.substr(at);
  tiff.resize(120000, '\0');
  tiff.replace(4, 4, little_endian(120000, 4));
  EXPECT_EQ(read_image_size(folder.write("late.tif", tiff + directory)).width,
            read_image_size(kFixtures / "rgb.tif").width);
}

TEST(ImageHeader, RefusesWhatReadingWould) {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& content) {
    return error_of([&] { read_image_size(folder.write("p", content)); });
  };
  EXPECT_THAT(message(""), HasSubstr("empty"));
  EXPECT_THAT(message("hello"), HasSubstr("not a readable image"));
  EXPECT_THAT(message("P6 50000 1 255\n"), HasSubstr("aspect"));
  EXPECT_THAT(message("P6 60000 60000 255\n"), HasSubstr("60000 x 60000"));
  EXPECT_THAT(error_of([&] { read_image_size(folder.path() / "absent"); }), HasSubstr("absent"));
  ImageLimits small;
  small.max_file_bytes = 10;
  EXPECT_THAT(error_of([&] { read_image_size(kFixtures / "rgb.png", small); }), HasSubstr("bytes"));
  for (const char* name : {"rgb.png", "chroma_420.jpg", "lossy.webp", "rgb.tif", "rgb.bmp", "rgb.ppm"}) {
    const std::string whole = file_content(kFixtures / name);
    EXPECT_NE(message(whole.substr(0, 9)), "") << name;
  }
}

}  // namespace
}  // namespace biqa
