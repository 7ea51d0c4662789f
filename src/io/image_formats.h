// SPDX-License-Identifier: Apache-2.0
// Private to io/image: shared by the decoders of all formats.
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

/// An image file in memory.
struct PictureFile {
  Bytes content;
  const std::string& where;
  const ImageLimits& limits;

  /// Throws Error naming the file.
  [[noreturn]] void refuse(std::string_view why) const;
  /// Throws Error for sizes outside the limits. Call it with the header's size before pixels are allocated.
  void check_size(std::int64_t width, std::int64_t height) const;
};

/// Pixels as stored: [height, width, channels], with 3 channels (RGB) or 4 (RGB and straight alpha).
struct Pixels {
  std::int64_t width = 0;
  std::int64_t height = 0;
  int channels = 3;
  std::vector<std::uint8_t> samples;  ///< of the rows that have been added
  int orientation = 1;                ///< EXIF code; 1: upright

  /// Reserves memory for all samples. The system provides it when rows are added, so a header cannot claim memory.
  Pixels(std::int64_t w, std::int64_t h, int c) : width(w), height(h), channels(c) {
    samples.reserve(static_cast<std::size_t>(w * h * c));
  }
  /// Adds rows of zeros and returns the first of them. The address of earlier rows does not change.
  std::uint8_t* add_rows(std::int64_t rows) {
    const std::size_t filled = samples.size();
    samples.resize(filled + static_cast<std::size_t>(rows * width * channels));
    return samples.data() + filled;
  }
};

/// Number of scans that a JPEG of this size may have. A progressive file may repeat scans over the same pixels without
/// end; real files have about ten.
int max_scans(std::uint64_t width, std::uint64_t height);

/// Sizes in the header, checked against the limits. The content may be only the beginning of a file. If it ends too
/// early, the Error is that of a damaged file.
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

/// Orientation (1..8) as Pillow's exif_transpose finds it: from the EXIF block, or from the XMP packet if the block has
/// no orientation. `exif`: the block with or without its "Exif\0\0" prefix; empty if there is none. Returns 1 if the
/// value is unusable or the block is invalid. Like Pillow, it does not read the packet in these cases.
int stored_orientation(Bytes exif, std::string_view xmp);
/// The same for a TIFF file, whose first directory contains the tag.
int stored_orientation_of_tiff(Bytes file, std::string_view xmp);

/// round(a b / 255) for a, b in 0..255.
inline int multiply_255(int a, int b) {
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/// Bytes as text.
inline std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Bytes in the type that the libraries take.
inline const std::uint8_t* as_octets(Bytes bytes) {
  return reinterpret_cast<const std::uint8_t*>(bytes.data());
}

}  // namespace biqa::image
