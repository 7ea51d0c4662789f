// SPDX-License-Identifier: Apache-2.0
// Private to io/image: what the decoders of the single formats share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/image.h"

namespace biqa::image {

using Bytes = std::span<const std::byte>;

/// A picture file in memory.
struct PictureFile {
  Bytes content;
  const std::string& where;
  const ImageLimits& limits;

  /// Throws Error naming the file.
  [[noreturn]] void refuse(std::string_view why) const;
  /// Refuses sizes outside the limits; called with the header's size before pixels are allocated.
  void check_size(std::int64_t width, std::int64_t height) const;
};

/// Pixels as they are stored: [height, width, channels], 3 channels (RGB) or 4 (RGB and straight alpha).
struct Pixels {
  std::int64_t width = 0;
  std::int64_t height = 0;
  int channels = 3;
  std::vector<std::uint8_t> samples;
  int orientation = 1;  ///< EXIF code; 1: upright

  /// Allocates the samples.
  Pixels(std::int64_t w, std::int64_t h, int c)
      : width(w), height(h), channels(c), samples(static_cast<std::size_t>(w * h * c)) {}
};

/// Sizes from the header alone, checked against the limits. The content may be the beginning of a file; throws Error, as
/// for a damaged file, where it ends too early.
ImageSize size_of_jpeg(const PictureFile& file);
ImageSize size_of_png(const PictureFile& file);
ImageSize size_of_webp(const PictureFile& file);
ImageSize size_of_tiff(const PictureFile& file);
ImageSize size_of_bmp(const PictureFile& file);
ImageSize size_of_pnm(const PictureFile& file);

Pixels decode_jpeg(const PictureFile& file);
Pixels decode_png(const PictureFile& file);
Pixels decode_webp(const PictureFile& file);
Pixels decode_tiff(const PictureFile& file);
Pixels decode_bmp(const PictureFile& file);
Pixels decode_pnm(const PictureFile& file);

/// Orientation (1..8) as Pillow's exif_transpose finds it: that of the EXIF block (with or without its "Exif\0\0" prefix,
/// empty where there is none), or that of the XMP packet where the block has none. 1 if that is no usable value, or if
/// there is a block that is none: then Pillow does not look at the packet either.
int stored_orientation(Bytes exif, std::string_view xmp);
/// The same for a TIFF file, whose first directory has the tag itself.
int stored_orientation_of_tiff(Bytes file, std::string_view xmp);

/// round(a b / 255) for a, b in 0..255.
inline int multiply_255(int a, int b) {
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/// Bytes of a text.
inline std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The bytes as the libraries want them.
inline const std::uint8_t* as_octets(Bytes bytes) {
  return reinterpret_cast<const std::uint8_t*>(bytes.data());
}

}  // namespace biqa::image
