// SPDX-License-Identifier: Apache-2.0
#include "report/thumbnails.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "data/preprocess.h"
#include "io/image.h"
#include "report/html.h"

namespace biqa {
namespace {

constexpr int kJpegQuality = 85;

/// The size with the same shape whose longer side is `longest`; at least one pixel.
Size scaled_size(const Image& image, std::int64_t longest) {
  const double scale =
      static_cast<double>(longest) / static_cast<double>(std::max(image.width, image.height));
  const auto side = [&](std::int64_t length) {
    return std::max<std::int64_t>(1, std::llround(static_cast<double>(length) * scale));
  };
  return {side(image.height), side(image.width)};
}

}  // namespace

std::string base64(std::span<const std::byte> bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t three = 0;
    for (std::size_t j = 0; j < 3; ++j)
      three = three << 8U | (j < count ? std::to_integer<std::uint32_t>(bytes[i + j]) : 0U);
    for (std::size_t j = 0; j < 4; ++j) out += j <= count ? kDigits[three >> (18 - 6 * j) & 0x3FU] : '=';
  }
  return out;
}

std::string embedded_picture(const std::filesystem::path& file, const std::string& alt,
                             std::int64_t longest_side) {
  Image image = read_image(file);
  if (std::max(image.width, image.height) > longest_side)
    image = resize(image, scaled_size(image, longest_side));
  const std::string jpeg = encode_jpeg(image, kJpegQuality);
  return fmt::format("<img alt=\"{}\" width=\"{}\" height=\"{}\" src=\"data:image/jpeg;base64,{}\">",
                     escaped_html(alt), image.width, image.height,
                     base64(std::as_bytes(std::span(jpeg.data(), jpeg.size()))));
}

std::string missing_picture(const std::string& reason) {
  return fmt::format("<div class=\"missing\">{}</div>", escaped_html(reason));
}

}  // namespace biqa
