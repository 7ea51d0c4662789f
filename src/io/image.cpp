// SPDX-License-Identifier: Apache-2.0
#include "io/image.h"

#include <glog/logging.h>
#include <png.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "io/files.h"
#include "io/image_formats.h"

namespace biqa {
namespace image {

void PictureFile::refuse(std::string_view why) const {
  // The libraries' messages may contain line ends.
  std::string line(why);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
  fail("cannot read image {}: {}; replace or convert the file", where, line);
}

void PictureFile::check_size(std::int64_t width, std::int64_t height) const {
  if (width < 1 || height < 1) {
    refuse(fmt::format("its size is {} x {} pixels", width, height));
  }
  // By division, because the product may overflow with hostile headers.
  if (width > limits.max_pixels / height) {
    refuse(fmt::format("{} x {} pixels are more than the limit of {}", width, height, limits.max_pixels));
  }
  const auto longer = static_cast<double>(std::max(width, height));
  const auto shorter = static_cast<double>(std::min(width, height));
  if (longer / shorter > limits.max_aspect) {
    refuse(fmt::format("{} x {} pixels have an aspect ratio above {}", width, height, limits.max_aspect));
  }
}

namespace {

/// Pillow's alpha_composite over opaque white, to the bit.
std::uint8_t over_white(std::uint32_t value, std::uint32_t alpha) {
  const std::uint32_t blend = (value * alpha + 255 * (255 - alpha) + 128) << 7;
  return static_cast<std::uint8_t>(((blend >> 8) + blend) >> 15);
}

void composite_over_white(Pixels& pixels) {
  const auto count = static_cast<std::size_t>(pixels.width * pixels.height);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t* from = &pixels.samples[4 * i];
    std::uint8_t* to = &pixels.samples[3 * i];
    const std::uint8_t alpha = from[3];
    for (int c = 0; c < 3; ++c) {
      to[c] = over_white(from[c], alpha);
    }
  }
  pixels.samples.resize(3 * count);
  pixels.channels = 3;
}

/// Turns stored pixels upright. EXIF codes 2..4 mirror and turn, 5..8 also swap the axes.
Image turn_upright(Pixels&& pixels) {
  const std::int64_t w = pixels.width;
  const std::int64_t h = pixels.height;
  const int code = pixels.orientation;
  if (code == 1) {
    return {w, h, std::move(pixels.samples)};
  }
  const bool swapped = code >= 5;
  const bool from_right = code == 2 || code == 3 || code == 7 || code == 8;
  const bool from_bottom = code == 3 || code == 4 || code == 6 || code == 7;
  Image upright{swapped ? h : w, swapped ? w : h, std::vector<std::uint8_t>(pixels.samples.size())};
  std::uint8_t* to = upright.rgb.data();
  for (std::int64_t y = 0; y < upright.height; ++y) {
    for (std::int64_t x = 0; x < upright.width; ++x, to += 3) {
      const std::int64_t column = swapped ? y : x;
      const std::int64_t row = swapped ? x : y;
      const std::int64_t source =
          (from_bottom ? h - 1 - row : row) * w + (from_right ? w - 1 - column : column);
      std::copy_n(&pixels.samples[static_cast<std::size_t>(3 * source)], 3, to);
    }
  }
  return upright;
}

/// The functions that read a format: the whole image, and the size in its header.
struct Format {
  Pixels (*decode)(const PictureFile&);
  ImageSize (*size)(const PictureFile&);
};

using namespace std::string_view_literals;

/// The kind of a file that biqa cannot read, judged by its first bytes. Empty if it is unknown.
std::string_view unread_kind(std::string_view head) {
  struct Kind {
    std::size_t at;
    std::string_view magic, name;
  };
  constexpr std::array kKinds = {Kind{0, "GIF8"sv, "a GIF"},
                                 Kind{4, "ftypavi"sv, "an AVIF picture"},
                                 Kind{4, "ftyphe"sv, "a HEIC picture"},
                                 Kind{4, "ftypmif"sv, "a HEIF picture"},
                                 Kind{4, "ftyp"sv, "a video or an image in a video format"},
                                 Kind{4, "JXL "sv, "a JPEG XL image"},
                                 Kind{0, "\xFF\x0A"sv, "a JPEG XL image"},
                                 Kind{4, "jP  "sv, "a JPEG 2000 image"},
                                 Kind{0, "8BPS"sv, "a Photoshop document"},
                                 Kind{0, "%PDF"sv, "a PDF document"},
                                 Kind{0, "<svg"sv, "an SVG drawing"},
                                 Kind{0, "\x00\x05\x16\x07"sv, "an AppleDouble file of macOS"},
                                 Kind{0, "\x00\x00\x01\x00"sv, "an icon"}};
  const auto* const found = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& kind) {
    return head.substr(std::min(kind.at, head.size())).starts_with(kind.magic);
  });
  return found == kKinds.end() ? std::string_view() : found->name;
}

Format format_of(const PictureFile& file) {
  const std::string_view head(reinterpret_cast<const char*>(file.content.data()),
                              std::min<std::size_t>(file.content.size(), 16));
  if (head.empty()) {
    file.refuse("the file is empty");
  }
  if (head.starts_with("\xFF\xD8\xFF"sv)) {
    return {decode_jpeg, size_of_jpeg};
  }
  if (head.starts_with("\x89PNG\r\n\x1A\n"sv)) {
    return {decode_png, size_of_png};
  }
  if (head.starts_with("RIFF"sv) &&
      head.substr(std::min<std::size_t>(head.size(), 8)).starts_with("WEBP"sv)) {
    return {decode_webp, size_of_webp};
  }
  for (const std::string_view magic : {"II*\0"sv, "MM\0*"sv, "II+\0"sv, "MM\0+"sv}) {
    if (head.starts_with(magic)) {
      return {decode_tiff, size_of_tiff};
    }
  }
  if (head.starts_with("BM"sv)) {
    return {decode_bmp, size_of_bmp};
  }
  if (head.size() > 2 && head[0] == 'P' && head[1] >= '1' && head[1] <= '6' &&
      " \t\n\v\f\r#"sv.find(head[2]) != std::string_view::npos) {
    return {decode_pnm, size_of_pnm};
  }
  const std::string_view kind = unread_kind(head);
  file.refuse(fmt::format("not a readable image: its content is {}neither JPEG, PNG, BMP, WebP, TIFF nor PNM",
                          kind.empty() ? "" : fmt::format("{}, ", kind)));
}

}  // namespace
}  // namespace image

Image decode_image(std::span<const std::byte> content, const std::string& where, const ImageLimits& limits) {
  const image::PictureFile file{content, where, limits};
  image::Pixels pixels = image::format_of(file).decode(file);
  if (pixels.channels == 4) {
    image::composite_over_white(pixels);
  }
  return image::turn_upright(std::move(pixels));
}

Image read_image(const std::filesystem::path& path, const ImageLimits& limits) {
  const std::string content = read_file(path, static_cast<std::size_t>(limits.max_file_bytes));
  return decode_image(std::as_bytes(std::span(content.data(), content.size())), path.string(), limits);
}

ImageSize read_image_size(const std::filesystem::path& path, const ImageLimits& limits) {
  constexpr std::size_t kHeaderBytes = std::size_t{64} << 10;
  const std::string where = path.string();
  const auto size_in = [&](const std::string& content) {
    const image::PictureFile file{std::as_bytes(std::span(content.data(), content.size())), where, limits};
    return image::format_of(file).size(file);
  };
  std::error_code unknown;
  const std::uintmax_t bytes = std::filesystem::file_size(path, unknown);
  if (!unknown && bytes > static_cast<std::uintmax_t>(limits.max_file_bytes))
    read_file(path, static_cast<std::size_t>(limits.max_file_bytes));  // throws: the file is too large
  const std::string beginning = read_beginning(path, kHeaderBytes);
  if (beginning.size() < kHeaderBytes) return size_in(beginning);
  try {
    return size_in(beginning);
  } catch (const Error&) {
    // The header may be longer, or at the end of the file, as in many TIFF files. So the whole file is read.
    return size_in(read_file(path, static_cast<std::size_t>(limits.max_file_bytes)));
  }
}

void write_png(const std::filesystem::path& path, const Image& image) {
  CHECK(image.width > 0 && image.height > 0);
  CHECK_EQ(image.rgb.size(), static_cast<std::size_t>(image.width * image.height * 3));
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  header.width = static_cast<png_uint_32>(image.width);
  header.height = static_cast<png_uint_32>(image.height);
  header.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(header);
  std::string content(size, '\0');
  CHECK_NE(png_image_write_to_memory(&header, content.data(), &size, 0, image.rgb.data(), 0, nullptr), 0)
      << header.message;
  content.resize(size);
  write_file_atomically(path, content);
}

}  // namespace biqa
