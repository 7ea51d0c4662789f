// SPDX-License-Identifier: Apache-2.0
// BMP and PNM: a header and uncompressed samples. No library is used, because none agrees with Pillow: stb_image
// ignores a PNM's maximum and reads past short BMP palettes, and netpbm exits on errors.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>

#include "io/image_formats.h"

namespace biqa::image {
namespace {

/// Fields at byte offsets, bounds checked.
class Reader {
 public:
  explicit Reader(const PictureFile& file) : file_(file) {}

  std::uint8_t u8(std::size_t at) const {
    need(at, 1);
    return std::to_integer<std::uint8_t>(file_.content[at]);
  }
  std::uint32_t u16(std::size_t at) const { return u8(at) | static_cast<std::uint32_t>(u8(at + 1)) << 8; }
  std::uint32_t u32(std::size_t at) const { return u16(at) | u16(at + 2) << 16; }
  /// `count` bytes from `at`. Throws Error if the file ends before.
  const std::uint8_t* need(std::size_t at, std::size_t count) const {
    const std::size_t size = file_.content.size();
    if (at > size || count > size - at) {
      file_.refuse(fmt::format("the file ends too early: {} bytes at {} of {} bytes", count, at, size));
    }
    return as_octets(file_.content) + at;
  }

 private:
  const PictureFile& file_;
};

/// One colour of a packed BMP pixel, scaled to 0..255.
struct Channel {
  std::uint32_t mask = 0;
  int shift = 0;
  std::uint64_t most = 0;

  explicit Channel(std::uint32_t m) : mask(m), shift(m == 0 ? 0 : std::countr_zero(m)), most(m >> shift) {}
  std::uint8_t of(std::uint32_t pixel) const {
    const std::uint64_t value = (pixel & mask) >> shift;
    return static_cast<std::uint8_t>(most == 255 ? value : value * 255 / most);
  }
};

struct BmpLayout {
  std::int64_t width = 0;
  std::int64_t height = 0;
  bool top_down = false;
  std::uint32_t bits = 0;
  std::array<std::uint32_t, 4> masks = {};  ///< red, green, blue, alpha; for 16 bits and more
  std::size_t palette_at = 0;
  std::size_t palette_entry = 4;  ///< bytes
  std::uint32_t colours = 0;
  std::size_t pixels_at = 0;
};

BmpLayout read_bmp_header(const PictureFile& file) {
  constexpr std::size_t kFileHeader = 14;
  constexpr std::uint32_t kBitFields = 3;
  const Reader in(file);
  BmpLayout layout;
  const std::uint32_t header = in.u32(kFileHeader);
  std::uint32_t compression = 0;
  if (header == 12) {
    layout.width = in.u16(18);
    layout.height = in.u16(20);
    layout.bits = in.u16(24);
    layout.palette_entry = 3;
  } else if (header == 40 || header == 52 || header == 56 || header == 64 || header == 108 || header == 124) {
    const auto signed_height = static_cast<std::int32_t>(in.u32(22));
    layout.width = in.u32(18);
    layout.height = std::abs(std::int64_t{signed_height});
    layout.top_down = signed_height < 0;
    layout.bits = in.u16(28);
    compression = in.u32(30);
    layout.colours = in.u32(46);
  } else {
    file.refuse(fmt::format("a BMP header of {} bytes is not supported", header));
  }
  if (compression != 0 && compression != kBitFields) {
    file.refuse(fmt::format("BMP compression {} is not supported", compression));
  }
  const bool packed = layout.bits == 16 || layout.bits == 24 || layout.bits == 32;
  if (!packed && layout.bits != 1 && layout.bits != 4 && layout.bits != 8) {
    file.refuse(fmt::format("a BMP with {} bits per pixel is not supported", layout.bits));
  }
  layout.palette_at = kFileHeader + header;
  std::size_t behind_header = layout.palette_at;
  if (packed) {
    layout.colours = 0;  // a hint for displays
    layout.masks = layout.bits == 16 ? std::array<std::uint32_t, 4>{0x7C00, 0x3E0, 0x1F, 0}
                                     : std::array<std::uint32_t, 4>{0xFF0000, 0xFF00, 0xFF, 0};
    if (compression == kBitFields) {
      // The masks follow the shortest header and are part of the longer headers. Their offset is the same.
      layout.masks = {in.u32(54), in.u32(58), in.u32(62), header >= 56 ? in.u32(66) : 0};
      behind_header = std::max<std::size_t>(behind_header, 66);
    }
  } else {
    const std::uint32_t most = 1U << layout.bits;
    layout.colours = layout.colours == 0 ? most : std::min(layout.colours, most);
    behind_header += layout.palette_entry * layout.colours;
  }
  // Some writers leave the offset of the pixels 0, or forget the palette in it.
  const std::size_t stated = in.u32(10);
  layout.pixels_at = stated == 0 || (!packed && stated == layout.palette_at) ? behind_header : stated;
  return layout;
}

void unpack_row(const BmpLayout& layout, const std::array<Channel, 4>& channels, int count,
                const std::uint8_t* from, std::uint8_t* to) {
  const std::size_t bytes = layout.bits / 8;
  for (std::int64_t x = 0; x < layout.width; ++x, from += bytes) {
    std::uint32_t pixel = 0;
    for (std::size_t b = 0; b < bytes; ++b) {
      pixel |= static_cast<std::uint32_t>(from[b]) << (8 * b);
    }
    for (int c = 0; c < count; ++c) {
      *to++ = channels[static_cast<std::size_t>(c)].of(pixel);
    }
  }
}

/// False where a pixel refers to a colour the palette does not have.
bool look_up_row(const BmpLayout& layout, const std::uint8_t* palette, const std::uint8_t* from,
                 std::uint8_t* to) {
  const std::uint32_t per_byte = 8 / layout.bits;
  const std::uint32_t most = (1U << layout.bits) - 1;
  for (std::uint32_t x = 0; x < layout.width; ++x) {
    const std::uint32_t shift = (per_byte - 1 - x % per_byte) * layout.bits;
    const std::uint32_t index = static_cast<std::uint32_t>(from[x / per_byte]) >> shift & most;
    if (index >= layout.colours) {
      return false;
    }
    const std::uint8_t* colour = palette + index * layout.palette_entry;
    for (int c = 2; c >= 0; --c) {
      *to++ = colour[c];
    }
  }
  return true;
}

/// Words of a PNM header or of its plain samples, with comments from # to the end of the line.
class PnmWords {
 public:
  explicit PnmWords(const PictureFile& file) : file_(file) {}

  /// The next number; `what` names it in errors. Also consumes the one character after it.
  std::int64_t number(const char* what) {
    skip_blanks();
    constexpr std::int64_t kTooLarge = 1'000'000'000;
    std::int64_t value = 0;
    const std::size_t start = at_;
    for (; at_ < size() && is_digit(current()); ++at_) {
      value = std::min(value * 10 + (current() - '0'), kTooLarge);
    }
    if (at_ == start || (at_ < size() && !is_blank(current()) && current() != '#')) {
      file_.refuse(at_ == size() ? fmt::format("the file ends too early: no {}", what)
                                 : fmt::format("no {} at byte {}", what, at_));
    }
    if (at_ < size() && current() != '#') {
      ++at_;
    }
    return value;
  }

  /// A digit 0 or 1, which needs no blank after it.
  bool bit() {
    skip_blanks();
    if (at_ == size() || (current() != '0' && current() != '1')) {
      file_.refuse(at_ == size() ? "the file ends too early: no pixel"
                                 : fmt::format("no pixel at byte {}", at_));
    }
    return content()[at_++] == '1';
  }

  std::size_t position() const { return at_; }
  std::size_t left() const { return size() - at_; }

 private:
  static bool is_digit(std::uint8_t c) { return c >= '0' && c <= '9'; }
  static bool is_blank(std::uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
  const std::uint8_t* content() const { return as_octets(file_.content); }
  std::size_t size() const { return file_.content.size(); }
  std::uint8_t current() const { return content()[at_]; }
  void skip_blanks() {
    for (; at_ < size() && (is_blank(current()) || current() == '#'); ++at_) {
      if (current() == '#') {
        while (at_ + 1 < size() && current() != '\n' && current() != '\r') {
          ++at_;
        }
      }
    }
  }

  const PictureFile& file_;
  std::size_t at_ = 2;
};

/// round(255 value / most), half to even, for every value a PNM may hold.
std::vector<std::uint8_t> scale_to_255(std::int64_t most) {
  std::vector<std::uint8_t> table(static_cast<std::size_t>(most) + 1);
  for (std::size_t value = 0; value < table.size(); ++value) {
    table[value] = static_cast<std::uint8_t>(
        std::nearbyint(static_cast<double>(value) / static_cast<double>(most) * 255.0));
  }
  return table;
}

}  // namespace

ImageSize size_of_bmp(const PictureFile& file) {
  const BmpLayout layout = read_bmp_header(file);
  file.check_size(layout.width, layout.height);
  return {layout.width, layout.height};
}

Pixels decode_bmp(const PictureFile& file) {
  const BmpLayout layout = read_bmp_header(file);
  file.check_size(layout.width, layout.height);
  const Reader in(file);
  const std::size_t stride = (static_cast<std::size_t>(layout.width) * layout.bits + 31) / 32 * 4;
  const std::uint8_t* rows = in.need(layout.pixels_at, stride * static_cast<std::size_t>(layout.height));
  const std::uint8_t* palette = in.need(layout.palette_at, layout.palette_entry * layout.colours);
  const std::array<Channel, 4> channels = {Channel(layout.masks[0]), Channel(layout.masks[1]),
                                           Channel(layout.masks[2]), Channel(layout.masks[3])};
  const bool packed = layout.bits >= 16;
  if (packed &&
      std::any_of(channels.begin(), channels.begin() + 3, [](const Channel& c) { return c.most == 0; })) {
    file.refuse("a BMP colour mask is zero");
  }
  Pixels pixels(layout.width, layout.height, channels[3].most != 0 ? 4 : 3);
  pixels.add_rows(layout.height);
  const std::int64_t row_samples = layout.width * pixels.channels;
  for (std::int64_t y = 0; y < layout.height; ++y) {
    const std::int64_t stored = layout.top_down ? y : layout.height - 1 - y;
    const std::uint8_t* from = rows + static_cast<std::size_t>(stored) * stride;
    std::uint8_t* to = pixels.samples.data() + y * row_samples;
    if (packed) {
      unpack_row(layout, channels, pixels.channels, from, to);
    } else if (!look_up_row(layout, palette, from, to)) {
      file.refuse(fmt::format("a pixel refers to a colour outside the palette of {}", layout.colours));
    }
  }
  return pixels;
}

namespace {

struct PnmHeader {
  int kind = 0;  ///< 1 … 6
  std::int64_t width = 0, height = 0, most = 0;
};

PnmHeader read_pnm_header(const PictureFile& file, PnmWords& words) {
  PnmHeader header;
  header.kind = std::to_integer<int>(file.content[1]) - '0';
  const bool bilevel = header.kind == 1 || header.kind == 4;
  header.width = words.number("width");
  header.height = words.number("height");
  header.most = bilevel ? 1 : words.number("maximum");
  if (header.most < 1 || header.most > 65535) {
    file.refuse(fmt::format("a PNM maximum of {} is not in 1 … 65535", header.most));
  }
  file.check_size(header.width, header.height);
  return header;
}

}  // namespace

ImageSize size_of_pnm(const PictureFile& file) {
  PnmWords words(file);
  const PnmHeader header = read_pnm_header(file, words);
  return {header.width, header.height};
}

Pixels decode_pnm(const PictureFile& file) {
  PnmWords words(file);
  const PnmHeader header = read_pnm_header(file, words);
  const int kind = header.kind;
  const std::int64_t width = header.width, height = header.height, most = header.most;
  const bool plain = kind <= 3;
  const std::int64_t stored_channels = kind == 3 || kind == 6 ? 3 : 1;
  const std::int64_t row = width * stored_channels;
  const std::int64_t sample_bytes = most > 255 ? 2 : 1;
  const std::int64_t row_bytes = kind == 4 ? (width + 7) / 8 : row * (plain ? 1 : sample_bytes);
  const Reader in(file);
  // For plain samples this is a lower bound. It prevents short files from claiming memory.
  const std::uint8_t* from = in.need(words.position(), static_cast<std::size_t>(row_bytes * height));

  const std::vector<std::uint8_t> scaled = scale_to_255(most);
  const auto sample = [&](std::int64_t y, std::int64_t i) -> std::int64_t {
    const std::uint8_t* const start = from + y * row_bytes;
    switch (kind) {
      case 1:
        return words.bit() ? 0 : 1;
      case 4:
        return (start[i / 8] >> (7 - i % 8) & 1) == 0 ? 1 : 0;
      case 2:
      case 3:
        return words.number("sample");
      default:
        return sample_bytes == 1 ? start[i] : start[2 * i] << 8 | start[2 * i + 1];
    }
  };
  Pixels pixels(width, height, 3);
  std::uint8_t* to = pixels.add_rows(height);
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t i = 0; i < row; ++i) {
      const std::int64_t value = sample(y, i);
      if (value > most) {
        file.refuse(fmt::format("a sample of {} above the maximum of {}", value, most));
      }
      to = std::fill_n(to, stored_channels == 1 ? 3 : 1, scaled[static_cast<std::size_t>(value)]);
    }
  }
  return pixels;
}

}  // namespace biqa::image
