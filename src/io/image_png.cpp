// SPDX-License-Identifier: Apache-2.0
#include <glog/logging.h>
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "io/image_png_parts.h"

namespace biqa::image {
namespace {

/// One decompression. libpng reports errors by longjmp: the methods that call it hold no objects with
/// destructors, return false on an error and leave its text in message().
class PngReader {
 public:
  explicit PngReader(const PngParts& parts) : pieces_(parts.pieces()) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    CHECK(png_ != nullptr) << "libpng at run time is another version than at compile time";
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
    // PngParts has already checked the relevant ones.
    png_set_crc_action(png_, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
    png_read_info(png_, info_);
    return true;
  }

  /// Asks for 8-bit RGB or RGBA; then channels() is valid.
  bool set_conversions() {
    if (setjmp(png_jmpbuf(png_)) != 0) {
      return false;
    }
    // Expands palettes, grey values below 8 bits and transparent colours.
    png_set_expand(png_);
    if (png_get_bit_depth(png_, info_) == 16) {
      if (png_get_color_type(png_, info_) == PNG_COLOR_TYPE_GRAY) {
        png_set_scale_16(png_);
      } else {
        png_set_strip_16(png_);
      }
    }
    png_set_gray_to_rgb(png_);
    passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }

  /// Decodes all rows. As in Pillow, the pixels' checksum may be missing or cut off, but not wrong.
  bool read_rows(Pixels& pixels) {
    if (setjmp(png_jmpbuf(png_)) != 0) {
      return has_all_rows() && !wrong_sum_;
    }
    for (int pass = 0; pass < passes_; ++pass) {
      for (std::int64_t y = 0; y < pixels.height; ++y) {
        png_read_row(png_,
                     pass == 0 ? pixels.add_rows(1)
                               : pixels.samples.data() + static_cast<std::size_t>(y) * row_bytes(),
                     nullptr);
      }
    }
    return true;
  }

  std::int64_t width() const { return png_get_image_width(png_, info_); }
  std::int64_t height() const { return png_get_image_height(png_, info_); }
  int channels() const { return png_get_channels(png_, info_); }
  std::size_t row_bytes() const { return png_get_rowbytes(png_, info_); }
  const std::string& message() const { return message_; }

 private:
  /// Whether all rows are decoded. libpng counts a row when it is decoded, and reads the checksum after the last row.
  bool has_all_rows() const {
    constexpr int kPasses = 7;
    return png_get_interlace_type(png_, info_) == PNG_INTERLACE_NONE
               ? png_get_current_row_number(png_) >= png_get_image_height(png_, info_)
               : png_get_current_pass_number(png_) >= kPasses;
  }

  static void on_error(png_structp png, png_const_charp message) {
    static_cast<PngReader*>(png_get_error_ptr(png))->message_ = message;
    png_longjmp(png, 1);
  }
  /// Ignores every warning except a wrong checksum of the pixels.
  static void on_warning(png_structp png, png_const_charp message) {
    if (!std::string_view(message).starts_with("IDAT: incorrect data check")) return;
    static_cast<PngReader*>(png_get_error_ptr(png))->wrong_sum_ = true;
    png_error(png, message);
  }
  static void on_read(png_structp png, png_bytep to, std::size_t count) {
    PngReader& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
    while (count > 0) {
      if (reader.piece_ == reader.pieces_.size()) png_error(png, "the file ends too early");
      const Bytes rest = reader.pieces_[reader.piece_].subspan(reader.position_);
      const std::size_t taken = std::min(count, rest.size());
      if (taken > 0) std::memcpy(to, rest.data(), taken);
      to += taken;
      count -= taken;
      reader.position_ += taken;
      if (taken == rest.size()) {
        ++reader.piece_;
        reader.position_ = 0;
      }
    }
  }

  const std::vector<Bytes>& pieces_;
  std::size_t piece_ = 0;
  std::size_t position_ = 0;  ///< in the piece
  bool wrong_sum_ = false;
  int passes_ = 1;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::string message_;
};

}  // namespace

ImageSize size_of_png(const PictureFile& file) {
  PngParts parts(file);
  parts.leave_out_rest();
  PngReader reader(parts);
  if (!reader.read_header()) {
    file.refuse(reader.message());
  }
  file.check_size(reader.width(), reader.height());
  return {reader.width(), reader.height()};
}

Pixels decode_png(const PictureFile& file) {
  PngParts parts(file);
  parts.read_rest();
  PngReader reader(parts);
  if (!reader.read_header()) {
    file.refuse(reader.message());
  }
  file.check_size(reader.width(), reader.height());
  if (!reader.set_conversions()) {
    file.refuse(reader.message());
  }
  Pixels pixels(reader.width(), reader.height(), reader.channels());
  CHECK(pixels.channels == 3 || pixels.channels == 4);
  CHECK_EQ(reader.row_bytes(), static_cast<std::size_t>(pixels.width * pixels.channels));
  if (!reader.read_rows(pixels)) {
    file.refuse(reader.message());
  }
  pixels.orientation = parts.orientation();
  return pixels;
}

}  // namespace biqa::image
