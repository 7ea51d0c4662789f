// SPDX-License-Identifier: Apache-2.0
// How pictures are turned, against the table that Pillow gave: every type that an orientation may have, how many values of
// it, and which, in EXIF blocks and as a TIFF file's own tag.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/files.h"
#include "io/image.h"
#include "io/json.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
const fs::path kFixtures = fs::path(BIQA_SOURCE_DIR) / "tests/fixtures/images";

std::string number(std::uint64_t value, int bytes, bool big_endian) {
  std::string text;
  for (int i = 0; i < bytes; ++i) {
    const int place = big_endian ? bytes - 1 - i : i;
    text += static_cast<char>(value >> (8 * place) & 255);
  }
  return text;
}

/// One field of a TIFF directory.
struct Entry {
  std::uint32_t tag = 0x0112;
  std::uint32_t type = 3;
  std::uint32_t count = 1;
  std::string value;
};

/// A directory at `at` of a file; what is longer than its field stands behind it.
std::string directory(const std::vector<Entry>& entries, bool big_endian, std::size_t at) {
  std::string fields = number(entries.size(), 2, big_endian);
  std::string behind;
  const std::size_t end = at + 2 + 12 * entries.size() + 4;
  for (const Entry& entry : entries) {
    fields += number(entry.tag, 2, big_endian) + number(entry.type, 2, big_endian) +
              number(entry.count, 4, big_endian);
    std::string inside = entry.value;
    if (inside.size() > 4) {
      behind += entry.value;
      inside = number(end + behind.size() - entry.value.size(), 4, big_endian);
    }
    fields += inside + std::string(4 - inside.size(), '\0');
  }
  return fields + number(0, 4, big_endian) + behind;
}

std::string start_of_tiff(bool big_endian, std::size_t directory_at) {
  return (big_endian ? "MM" : "II") + number(42, 2, big_endian) + number(directory_at, 4, big_endian);
}

std::string exif_block(const Entry& orientation, bool big_endian) {
  return start_of_tiff(big_endian, 8) + directory({orientation}, big_endian, 8);
}

/// A JPEG marker before all others.
std::string jpeg_with(const std::string& block) {
  static const std::string plain = read_file(kFixtures / "upright.jpg");
  const std::string content = std::string("Exif\0\0", 6) + block;
  return plain.substr(0, 2) + "\xFF\xE1" + number(2 + content.size(), 2, true) + content + plain.substr(2);
}

/// A chunk behind the pixels, where checksums do not count.
std::string png_with(const std::string& block) {
  static const std::string plain = read_file(kFixtures / "upright.png");
  return plain.substr(0, plain.size() - 12) + number(block.size(), 4, true) + "eXIf" + block + "none" +
         plain.substr(plain.size() - 12);
}

/// 3 x 2 grey pixels, no two of them equal.
std::string tiff_with(const Entry& orientation, bool big_endian) {
  const auto entry = [&](std::uint32_t tag, std::uint64_t value) {
    return Entry{tag, 3, 1, number(value, 2, big_endian)};
  };
  constexpr std::size_t kPixels = 8, kDirectory = 14;
  return start_of_tiff(big_endian, kDirectory) + "abcdef" +
         directory({entry(256, 3), entry(257, 2), entry(258, 8), entry(259, 1), entry(262, 1),
                    entry(273, kPixels), orientation, entry(277, 1), entry(278, 2), entry(279, 6)},
                   big_endian, kDirectory);
}

std::pair<std::int64_t, std::vector<std::uint8_t>> read(const std::string& content) {
  Image image = decode_image(std::as_bytes(std::span(content)), "a/picture");
  return {image.width, std::move(image.rgb)};
}

std::string from_hexadecimal(const std::string& digits) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  return bytes;
}

TEST(ImageOrientation, IsThatOfTheReferenceForEveryTypeCountAndValue) {
  // The code by the picture.
  std::map<std::pair<std::int64_t, std::vector<std::uint8_t>>, int> code_of;
  for (int code = 1; code <= 8; ++code) {
    const Entry known{.value = number(static_cast<std::uint64_t>(code), 2, false)};
    code_of[read(jpeg_with(exif_block(known, false)))] = code;
    code_of[read(png_with(exif_block(known, false)))] = code;
    code_of[read(tiff_with(known, false))] = code;
  }
  ASSERT_EQ(code_of.size(), 24U);
  const nlohmann::json rows = read_json(kFixtures / "orientations.json");
  ASSERT_GT(rows.size(), 150U);
  for (const auto& row : rows) {
    SCOPED_TRACE(row.dump());
    const bool big_endian = row[0] == ">";
    const Entry entry{.type = row[1], .count = row[2], .value = from_hexadecimal(row[3])};
    const int expected = row[4];
    EXPECT_EQ(code_of.at(read(jpeg_with(exif_block(entry, big_endian)))), expected);
    EXPECT_EQ(code_of.at(read(png_with(exif_block(entry, big_endian)))), expected);
    EXPECT_EQ(code_of.at(read(tiff_with(entry, big_endian))), expected);
  }
}

}  // namespace
}  // namespace biqa
