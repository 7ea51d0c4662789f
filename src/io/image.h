// SPDX-License-Identifier: Apache-2.0
// Reads image files as 8-bit RGB, decoded as in Pillow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace biqa {

/// An upright 8-bit sRGB image. `rgb` is [height, width, 3], row-major, without padding.
struct Image {
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::vector<std::uint8_t> rgb;
};

/// Limits of an image file. They are checked from the header, before pixels are allocated or decoded.
struct ImageLimits {
  /// Width times height. The default is Pillow's limit for a "decompression bomb". Decoding needs at most about 16
  /// bytes per pixel.
  std::int64_t max_pixels = 178'956'970;
  /// Size of the file. One uncompressed image of max_pixels fits.
  std::int64_t max_file_bytes = std::int64_t{1} << 30;
  /// Longer side divided by shorter side; the limit of the model's preprocessing.
  double max_aspect = 200;
};

/// Reads a JPEG, PNG, BMP, WebP, TIFF or PNM (PBM, PGM, PPM) image. The content determines the format, not the name.
/// Only the first frame or page is read.
///  - EXIF (and TIFF) orientation is applied.
///  - Alpha, palette or colour-key transparency is composited over white with Pillow's rounding.
///  - Grey, palette, 1-bit and CMYK become RGB as by Pillow's convert("RGB"); colour profiles are ignored.
///  - 16-bit samples: colour PNG keeps the high byte, as Pillow. Grey PNG, TIFF and PNM are scaled by 1/257.
///    Pillow clips 16-bit grey at 255 instead, which makes the image white.
/// All other results are bit-equal to Pillow's, except for CMYK in TIFF files. libtiff's own rounding changes CMYK and
/// 16-bit TIFF by at most 1. Throws Error (exit code 1) naming the file and the reason for anything missing,
/// truncated, corrupt, outside the limits or not an image. A damaged file never gives a partly filled image.
Image read_image(const std::filesystem::path& path, const ImageLimits& limits = {});

/// Sides of an image as stored, before its orientation is applied.
struct ImageSize {
  std::int64_t width = 0;
  std::int64_t height = 0;
};

/// Reads only the header, at most 64 KiB of most files. Throws Error as read_image does if the header shows the fault
/// (empty, not an image, cut off before its pixels, outside the limits). Damage after the header is not found.
ImageSize read_image_size(const std::filesystem::path& path, const ImageLimits& limits = {});

/// As read_image, for a file's content. Errors contain `where`.
Image decode_image(std::span<const std::byte> content, const std::string& where,
                   const ImageLimits& limits = {});

/// A baseline JPEG with 4:2:0 chroma. `quality`: 1 to 100, as in libjpeg.
std::string encode_jpeg(const Image& image, int quality);

/// Writes an 8-bit RGB PNG. Throws Error if the file cannot be written.
void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace biqa
