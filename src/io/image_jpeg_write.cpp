// SPDX-License-Identifier: Apache-2.0
// Writes JPEG with libjpeg-turbo's default settings.
#include <glog/logging.h>

#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <string>

// The order matters: it needs the headers before it, including <cstdio>.
#include <jpeglib.h>

#include "core/error.h"
#include "io/image.h"

namespace biqa {
namespace {

/// One compression. libjpeg reports errors by longjmp, so run() holds no objects with destructors.
class JpegWriter {
 public:
  JpegWriter() {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = leave;
    info_.client_data = this;
  }
  ~JpegWriter() {
    jpeg_destroy_compress(&info_);
    std::free(bytes_);
  }
  JpegWriter(const JpegWriter&) = delete;
  JpegWriter& operator=(const JpegWriter&) = delete;

  bool run(const Image& image, int quality) {
    if (setjmp(jump_) != 0) return false;
    jpeg_create_compress(&info_);
    jpeg_mem_dest(&info_, &bytes_, &size_);
    info_.image_width = static_cast<JDIMENSION>(image.width);
    info_.image_height = static_cast<JDIMENSION>(image.height);
    info_.input_components = 3;
    info_.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info_);
    jpeg_set_quality(&info_, quality, TRUE);
    jpeg_start_compress(&info_, TRUE);
    while (info_.next_scanline < info_.image_height) {
      const std::size_t begin = std::size_t{info_.next_scanline} * 3 * info_.image_width;
      // The library does not change the rows, but its type says that it may.
      JSAMPROW row = const_cast<JSAMPROW>(&image.rgb[begin]);
      jpeg_write_scanlines(&info_, &row, 1);
    }
    jpeg_finish_compress(&info_);
    return true;
  }

  std::string content() const { return {reinterpret_cast<const char*>(bytes_), size_}; }
  const char* message() const { return message_.data(); }

 private:
  [[noreturn]] static void leave(j_common_ptr info) {
    auto* self = static_cast<JpegWriter*>(info->client_data);
    info->err->format_message(info, self->message_.data());
    std::longjmp(self->jump_, 1);
  }

  jpeg_compress_struct info_{};
  jpeg_error_mgr errors_{};
  unsigned char* bytes_ = nullptr;
  unsigned long size_ = 0;  // NOLINT(google-runtime-int): the library's type
  std::jmp_buf jump_{};
  std::array<char, JMSG_LENGTH_MAX> message_{};
};

}  // namespace

std::string encode_jpeg(const Image& image, int quality) {
  CHECK(image.width > 0 && image.height > 0);
  CHECK(quality >= 1 && quality <= 100);
  CHECK_EQ(image.rgb.size(), static_cast<std::size_t>(image.width * image.height * 3));
  JpegWriter writer;
  if (!writer.run(image, quality))
    fail("cannot write a JPEG of {} x {} pixels: {}; use a smaller image", image.width, image.height,
         writer.message());
  return writer.content();
}

}  // namespace biqa
