// SPDX-License-Identifier: Apache-2.0
#include <glog/logging.h>
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <string>
#include <vector>

#include "io/image_formats.h"

namespace biqa::image {
namespace {

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
    // Texts and colour profiles may inflate to anything and are not used: skip them unread.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_AS_DEFAULT, reinterpret_cast<png_const_bytep>("eXIf"),
                                1);
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
  /// Valid after read_rows: the block may follow the pixels.
  int orientation() const {
    png_bytep exif = nullptr;
    png_uint_32 size = 0;
    if (png_get_eXIf_1(png_, info_, &size, &exif) == 0) {
      return 1;
    }
    return exif_orientation(std::as_bytes(std::span(exif, size)));
  }
  const std::string& message() const { return message_; }

 private:
  static void on_error(png_structp png, png_const_charp message) {
    static_cast<PngReader*>(png_get_error_ptr(png))->message_ = message;
    png_longjmp(png, 1);
  }
  static void on_warning(png_structp /*png*/, png_const_charp /*message*/) {}
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
  PngReader reader(file.content);
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
