// SPDX-License-Identifier: Apache-2.0
#include <glog/logging.h>
#include <png.h>

#include <algorithm>
#include <cctype>
#include <csetjmp>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/image_formats.h"

namespace biqa::image {
namespace {

constexpr png_alloc_size_t kMostText = png_alloc_size_t{1} << 20;
constexpr png_uint_32 kMostTexts = 200;

/// A profile as ImageMagick writes it into a text: an empty line, its name, its length, hexadecimal digits. Empty if it
/// is none.
std::string bytes_of_profile(std::string_view text) {
  for (int line = 0; line < 3; ++line) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return {};
    text.remove_prefix(end + 1);
  }
  std::string bytes;
  int high = -1;
  for (const char c : text) {
    if (std::isspace(static_cast<unsigned char>(c)) != 0) continue;
    if (std::isxdigit(static_cast<unsigned char>(c)) == 0) return {};
    const int digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
    if (high < 0) {
      high = digit;
    } else {
      bytes += static_cast<char>(high << 4 | digit);
      high = -1;
    }
  }
  return bytes;
}

/// One decompression. libpng reports errors by longjmp: the methods that call it hold no objects with
/// destructors, return false on an error and leave its text in message().
class PngReader {
 public:
  explicit PngReader(Bytes content) : rest_(content) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    CHECK(png_ != nullptr) << "libpng at run time is another one than at compile time";
    info_ = png_create_info_struct(png_);
    CHECK(info_ != nullptr);
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  /// Reads up to the pixels; then width() and height() are valid.
  bool read_header() {
    if (setjmp(png_jmpbuf(png_)) != 0) {
      return false;
    }
    png_set_read_fn(png_, this, on_read);
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    // Colour profiles and the like may inflate to anything and are not used: skip them unread. Texts may hold the
    // picture's orientation, in no more than Pillow's megabyte each.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_AS_DEFAULT,
                                reinterpret_cast<png_const_bytep>("tEXt\0zTXt\0iTXt"), 3);
    // As it stands, for libpng knows no block that begins with "Exif".
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_ALWAYS, reinterpret_cast<png_const_bytep>("eXIf"), 1);
    png_set_chunk_malloc_max(png_, kMostText);
    png_set_chunk_cache_max(png_, kMostTexts);
    png_read_info(png_, info_);
    return true;
  }

  /// Asks for 8-bit RGB or RGBA; then channels() is valid.
  bool set_conversions() {
    if (setjmp(png_jmpbuf(png_)) != 0) {
      return false;
    }
    // Expands palettes, greys below 8 bits and transparent colours.
    png_set_expand(png_);
    if (png_get_bit_depth(png_, info_) == 16) {
      if (png_get_color_type(png_, info_) == PNG_COLOR_TYPE_GRAY) {
        png_set_scale_16(png_);
      } else {
        png_set_strip_16(png_);
      }
    }
    png_set_gray_to_rgb(png_);
    // The pixels have a check sum of their own, see on_warning. With that right, those of chunks do not count, as in
    // Pillow; those of the header were checked.
    png_set_crc_action(png_, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }

  /// Decodes all rows and reads the file to its end mark.
  bool read_rows(std::uint8_t** rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) {
      return false;
    }
    png_read_image(png_, rows);
    png_read_end(png_, info_);
    return true;
  }

  std::int64_t width() const { return png_get_image_width(png_, info_); }
  std::int64_t height() const { return png_get_image_height(png_, info_); }
  int channels() const { return png_get_channels(png_, info_); }
  std::size_t row_bytes() const { return png_get_rowbytes(png_, info_); }
  /// Valid after read_rows: what tells it may follow the pixels.
  int orientation() const {
    Bytes exif;
    png_unknown_chunkp chunks = nullptr;
    const int count = png_get_unknown_chunks(png_, info_, &chunks);
    for (int i = 0; i < count; ++i) exif = std::as_bytes(std::span(chunks[i].data, chunks[i].size));
    const std::string raw = exif.empty() ? bytes_of_profile(text("Raw profile type exif")) : std::string();
    if (exif.empty()) exif = std::as_bytes(std::span(raw));
    return stored_orientation(exif, text("XML:com.adobe.xmp"));
  }
  const std::string& message() const { return message_; }

 private:
  /// The last text with this keyword, of any of the three kinds of text.
  std::string_view text(std::string_view keyword) const {
    png_textp texts = nullptr;
    const int count = png_get_text(png_, info_, &texts, nullptr);
    std::string_view found;
    for (int i = 0; i < count; ++i) {
      if (texts[i].key == keyword && texts[i].text != nullptr)
        found = {texts[i].text, std::max(texts[i].text_length, texts[i].itxt_length)};
    }
    return found;
  }

  static void on_error(png_structp png, png_const_charp message) {
    static_cast<PngReader*>(png_get_error_ptr(png))->message_ = message;
    png_longjmp(png, 1);
  }
  /// Only a wrong check sum of the pixels is more than a warning.
  static void on_warning(png_structp png, png_const_charp message) {
    if (std::string_view(message).starts_with("IDAT: incorrect data check")) png_error(png, message);
  }
  static void on_read(png_structp png, png_bytep to, std::size_t count) {
    Bytes& rest = static_cast<PngReader*>(png_get_io_ptr(png))->rest_;
    if (count > rest.size()) {
      png_error(png, "the file ends too early");
    }
    std::memcpy(to, rest.data(), count);
    rest = rest.subspan(count);
  }

  Bytes rest_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::string message_;
};

/// Where the file has to be mended to end as a PNG does, and with what.
struct MissingEnd {
  std::size_t at = 0;
  std::string end;
};

/// For files that end behind their pixels: without end mark, with half of one, with something else in its place, or
/// within the check sum before it. Pillow reads these. Nothing for files that are whole and for those cut anywhere else.
std::optional<MissingEnd> missing_end(Bytes content) {
  constexpr std::size_t kSignature = 8, kFrame = 8, kChecksum = 4;
  const std::string end_mark("\0\0\0\0IEND\xAE\x42\x60\x82", 12);
  const std::string_view text = as_text(content);
  bool pixels = false;
  for (std::size_t at = kSignature;;) {
    const std::string_view rest = text.substr(std::min(at, text.size()));
    const std::string_view kind = rest.substr(std::min<std::size_t>(rest.size(), 4), 4);
    const bool is_chunk = kind.size() == 4 && std::all_of(kind.begin(), kind.end(), [](unsigned char c) {
                            return std::isalnum(c) != 0 || c == '_';
                          });
    if (!is_chunk || kind == "IEND") {
      if (!pixels || (is_chunk && rest.substr(0, end_mark.size()) == end_mark)) return std::nullopt;
      return MissingEnd{at, end_mark};
    }
    std::size_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) length = length << 8 | static_cast<std::uint8_t>(rest[i]);
    pixels = pixels || kind == "IDAT";
    if (length > rest.size() - kFrame) return std::nullopt;
    const std::string_view left = rest.substr(kFrame + length);
    if (left.size() < kChecksum) {
      if (!pixels) return std::nullopt;
      return MissingEnd{at + kFrame + length, std::string(kChecksum, '\0') + end_mark};
    }
    at += kFrame + length + kChecksum;
  }
}

}  // namespace

ImageSize size_of_png(const PictureFile& file) {
  PngReader reader(file.content);
  if (!reader.read_header()) {
    file.refuse(reader.message());
  }
  file.check_size(reader.width(), reader.height());
  return {reader.width(), reader.height()};
}

Pixels decode_png(const PictureFile& file) {
  std::string mended;
  if (const std::optional<MissingEnd> missing = missing_end(file.content)) {
    mended = std::string(as_text(file.content.first(missing->at))) + missing->end;
  }
  PngReader reader(mended.empty() ? file.content : std::as_bytes(std::span(mended)));
  if (!reader.read_header()) {
    file.refuse(reader.message());
  }
  file.check_size(reader.width(), reader.height());
  if (!reader.set_conversions()) {
    file.refuse(reader.message());
  }
  Pixels pixels(reader.width(), reader.height(), reader.channels());
  CHECK(pixels.channels == 3 || pixels.channels == 4);
  CHECK_EQ(reader.row_bytes() * static_cast<std::size_t>(pixels.height), pixels.samples.size());
  std::vector<std::uint8_t*> rows(static_cast<std::size_t>(pixels.height));
  for (std::size_t y = 0; y < rows.size(); ++y) {
    rows[y] = &pixels.samples[y * reader.row_bytes()];
  }
  if (!reader.read_rows(rows.data())) {
    file.refuse(reader.message());
  }
  pixels.orientation = reader.orientation();
  return pixels;
}

}  // namespace biqa::image
