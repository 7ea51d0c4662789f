// SPDX-License-Identifier: Apache-2.0
// Reads JPEG with libjpeg-turbo and the settings that Pillow uses. These are the library's defaults: accurate integer
// DCT and smooth chroma.
#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

// The order matters: each of these headers needs the ones before it, including <cstdio>.
#include <jpeglib.h>

#include <jerror.h>

#include "io/image_formats.h"

namespace biqa::image {
namespace {

constexpr std::uint64_t kMaxScans = 500, kAlwaysScans = 20;
/// Pixels times scans; some 20 seconds of work.
constexpr std::uint64_t kMaxScannedPixels = 2'000'000'000;

/// One decompression. libjpeg reports errors by longjmp: the methods that call it hold no objects with
/// destructors, return false on an error and leave its text in message().
class JpegReader {
 public:
  explicit JpegReader(Bytes content) : content_(content) {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = leave;
    errors_.emit_message = on_warning;
    info_.client_data = this;
  }
  ~JpegReader() { jpeg_destroy_decompress(&info_); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  /// Reads up to the first scan; then info() is valid.
  bool read_header() {
    if (setjmp(jump_) != 0) {
      return false;
    }
    jpeg_create_decompress(&info_);
    jpeg_mem_src(&info_, as_octets(content_), content_.size());
    jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info_, TRUE);
    return true;
  }

  /// Decodes all rows as RGB or, for four components, as stored CMYK.
  bool read_rows(Pixels& pixels) {
    if (setjmp(jump_) != 0) {
      return false;
    }
    info_.out_color_space = info_.num_components == 4 ? JCS_CMYK : JCS_RGB;
    progress_.progress_monitor = on_progress;
    info_.progress = &progress_;
    jpeg_start_decompress(&info_);
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW row = pixels.add_rows(1);
      jpeg_read_scanlines(&info_, &row, 1);
    }
    jpeg_finish_decompress(&info_);
    return true;
  }

  const jpeg_decompress_struct& info() const { return info_; }
  const char* message() const { return message_.data(); }

 private:
  static JpegReader& self(j_common_ptr info) { return *static_cast<JpegReader*>(info->client_data); }

  [[noreturn]] static void leave(j_common_ptr info) {
    JpegReader& reader = self(info);
    info->err->format_message(info, reader.message_.data());
    std::longjmp(reader.jump_, 1);
  }

  /// Stops at warnings after which libjpeg would invent pixels. Stray bytes and odd headers are harmless.
  static void on_warning(j_common_ptr info, int level) {
    if (level >= 0) {
      return;
    }
    switch (info->err->msg_code) {
      case JWRN_HIT_MARKER:
      case JWRN_HUFF_BAD_CODE:
      case JWRN_JPEG_EOF:
      case JWRN_MUST_RESYNC:
      case JWRN_ARITH_BAD_CODE:
        leave(info);
      default:
        break;
    }
  }

  static void on_progress(j_common_ptr info) {
    JpegReader& reader = self(info);
    const int most = max_scans(reader.info_.image_width, reader.info_.image_height);
    if (reader.info_.input_scan_number > most) {
      std::snprintf(reader.message_.data(), reader.message_.size(), "more than %d scans", most);
      std::longjmp(reader.jump_, 1);
    }
  }

  Bytes content_;
  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf jump_{};
  std::array<char, JMSG_LENGTH_MAX> message_{};
};

/// Converts CMYK to RGB in place, as Pillow does. The CMYK values are inverted, as Adobe's programs store them.
void cmyk_to_rgb(Pixels& pixels) {
  const auto count = static_cast<std::size_t>(pixels.width * pixels.height);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t* from = &pixels.samples[4 * i];
    std::uint8_t* to = &pixels.samples[3 * i];
    const int light = from[3];
    for (int c = 0; c < 3; ++c) {
      to[c] = static_cast<std::uint8_t>(light - multiply_255(255 - from[c], light));
    }
  }
  pixels.samples.resize(3 * count);
  pixels.channels = 3;
}

int orientation_of(const jpeg_decompress_struct& info) {
  constexpr std::string_view kExif("Exif\0\0", 6);
  constexpr std::string_view kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
  std::string exif;  // a long block continues in further markers
  std::string_view xmp;
  for (const jpeg_marker_struct* marker = info.marker_list; marker != nullptr; marker = marker->next) {
    const std::string_view content =
        as_text(std::as_bytes(std::span(marker->data, static_cast<std::size_t>(marker->data_length))));
    if (content.starts_with(kExif)) {
      exif += exif.empty() ? content : content.substr(kExif.size());
    } else if (content.starts_with(kXmp)) {
      xmp = content.substr(kXmp.size());
    }
  }
  return stored_orientation(std::as_bytes(std::span(exif)), xmp);
}

}  // namespace

int max_scans(std::uint64_t width, std::uint64_t height) {
  const std::uint64_t pixels = std::max<std::uint64_t>(width * height, 1);
  return static_cast<int>(std::clamp(kMaxScannedPixels / pixels, kAlwaysScans, kMaxScans));
}

ImageSize size_of_jpeg(const PictureFile& file) {
  JpegReader reader(file.content);
  if (!reader.read_header()) {
    file.refuse(reader.message());
  }
  file.check_size(reader.info().image_width, reader.info().image_height);
  return {reader.info().image_width, reader.info().image_height};
}

Pixels decode_jpeg(const PictureFile& file) {
  JpegReader reader(file.content);
  if (!reader.read_header()) {
    file.refuse(reader.message());
  }
  const jpeg_decompress_struct& info = reader.info();
  file.check_size(info.image_width, info.image_height);
  if (info.num_components == 2) {
    file.refuse("a JPEG with two components is not supported");
  }
  Pixels pixels(info.image_width, info.image_height, info.num_components == 4 ? 4 : 3);
  pixels.orientation = orientation_of(info);
  if (!reader.read_rows(pixels)) {
    file.refuse(reader.message());
  }
  if (pixels.channels == 4) {
    cmyk_to_rgb(pixels);
  }
  return pixels;
}

}  // namespace biqa::image
