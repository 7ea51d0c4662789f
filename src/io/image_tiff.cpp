// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <tiffio.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>

#include "io/image_formats.h"

namespace biqa::image {
namespace {

/// The input of libtiff. It seeks and reads only if it does not use the mapping.
struct MemoryFile {
  Bytes content;
  std::uint64_t position = 0;
};

MemoryFile& memory(thandle_t handle) {
  return *static_cast<MemoryFile*>(handle);
}

tmsize_t read_memory(thandle_t handle, void* to, tmsize_t count) {
  MemoryFile& file = memory(handle);
  const std::uint64_t left =
      file.content.size() - std::min<std::uint64_t>(file.position, file.content.size());
  const std::uint64_t taken = std::min(left, static_cast<std::uint64_t>(std::max<tmsize_t>(count, 0)));
  if (taken > 0) {
    std::memcpy(to, file.content.data() + file.position, taken);
    file.position += taken;
  }
  return static_cast<tmsize_t>(taken);
}

tmsize_t refuse_to_write(thandle_t /*handle*/, void* /*from*/, tmsize_t /*count*/) {
  return 0;
}

toff_t seek_memory(thandle_t handle, toff_t offset, int from) {
  MemoryFile& file = memory(handle);
  const std::uint64_t base = from == SEEK_CUR ? file.position : from == SEEK_END ? file.content.size() : 0;
  file.position = base + offset;
  return file.position;
}

int close_memory(thandle_t /*handle*/) {
  return 0;
}

toff_t size_of_memory(thandle_t handle) {
  return memory(handle).content.size();
}

int map_memory(thandle_t handle, void** base, toff_t* size) {
  const Bytes content = memory(handle).content;
  // libtiff does not write to a file that is opened for reading.
  *base = const_cast<std::byte*>(content.data());
  *size = content.size();
  return 1;
}

void unmap_memory(thandle_t /*handle*/, void* /*base*/, toff_t /*size*/) {}

/// The first complaint of libtiff.
struct Complaints {
  std::string first;  ///< later ones are its consequences
};

int keep_message(TIFF* /*tiff*/, void* to, const char* /*module*/, const char* format, va_list arguments) {
  Complaints& complaints = *static_cast<Complaints*>(to);
  std::array<char, 512> text{};
  std::vsnprintf(text.data(), text.size(), format, arguments);
  const std::string_view message(text.data());
  // The orientation is not read by libtiff, so its complaint about one does not matter.
  if (complaints.first.empty() && message.find("\"Orientation\"") == std::string_view::npos)
    complaints.first = message;
  return 1;
}

/// Warnings do not matter, with one exception: libtiff takes indices into a palette that it cannot read for grey values.
int keep_warning(TIFF* tiff, void* to, const char* module, const char* format, va_list arguments) {
  Complaints warning;
  va_list copy;
  va_copy(copy, arguments);
  keep_message(tiff, &warning, module, format, copy);
  va_end(copy);
  Complaints& complaints = *static_cast<Complaints*>(to);
  if (complaints.first.empty() && warning.first.find("ColorMap") != std::string::npos)
    complaints.first = warning.first;
  return 1;
}

/// The meaning of the fourth value in libtiff's raster.
enum class Alpha { none, straight, premultiplied };

/// libtiff multiplies colours by their alpha, but not grey values, and not if it finds no alpha. The choice of the
/// sample that is an alpha is Pillow's.
Alpha kind_of_alpha(TIFF* tiff) {
  std::uint16_t photometric = 0;
  std::uint16_t samples = 0;
  std::uint16_t extra_count = 0;
  const std::uint16_t* extra = nullptr;
  TIFFGetField(tiff, TIFFTAG_PHOTOMETRIC, &photometric);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLESPERPIXEL, &samples);
  TIFFGetFieldDefaulted(tiff, TIFFTAG_EXTRASAMPLES, &extra_count, &extra);
  const bool colour = photometric == PHOTOMETRIC_RGB;
  if (!colour && photometric != PHOTOMETRIC_MINISBLACK && photometric != PHOTOMETRIC_MINISWHITE) {
    return Alpha::none;
  }
  if (extra_count == 0) {
    return colour && samples == 4 ? Alpha::straight : Alpha::none;
  }
  if (extra[0] == EXTRASAMPLE_ASSOCALPHA) {
    return Alpha::premultiplied;
  }
  if (extra[0] == EXTRASAMPLE_UNASSALPHA) {
    return colour ? Alpha::premultiplied : Alpha::straight;
  }
  return Alpha::none;
}

}  // namespace

namespace {

using TiffPointer = std::unique_ptr<TIFF, void (*)(TIFF*)>;

/// `source` and `complaints` must outlive the result.
TiffPointer open_tiff(const PictureFile& file, MemoryFile& source, Complaints& complaints) {
  // Limit for one allocation: tags and decoded strips. A tile may be larger than a small picture.
  constexpr std::int64_t kLeast = std::int64_t{64} << 20;
  const std::int64_t most = std::max(kLeast, std::min(file.limits.max_pixels, kLeast << 10) * 8);
  const std::unique_ptr<TIFFOpenOptions, void (*)(TIFFOpenOptions*)> options(TIFFOpenOptionsAlloc(),
                                                                             TIFFOpenOptionsFree);
  TIFFOpenOptionsSetMaxSingleMemAlloc(options.get(), most);
  TIFFOpenOptionsSetErrorHandlerExtR(options.get(), keep_message, &complaints);
  TIFFOpenOptionsSetWarningHandlerExtR(options.get(), keep_warning, &complaints);
  TiffPointer tiff(TIFFClientOpenExt("TIFF", "r", &source, read_memory, refuse_to_write, seek_memory,
                                     close_memory, size_of_memory, map_memory, unmap_memory, options.get()),
                   TIFFClose);
  if (tiff == nullptr) file.refuse(complaints.first.empty() ? "the TIFF file is corrupt" : complaints.first);
  return tiff;
}

ImageSize checked_size(const PictureFile& file, TIFF* tiff) {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &width);
  TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &height);
  file.check_size(width, height);
  return {width, height};
}

std::string_view xmp_of(TIFF* tiff) {
  std::uint32_t length = 0;
  const void* packet = nullptr;
  if (TIFFGetField(tiff, TIFFTAG_XMLPACKET, &length, &packet) != 1 || packet == nullptr) return {};
  return {static_cast<const char*>(packet), length};
}

/// The most bytes of pixels that one byte of the file can stand for. 0: no limit is known.
std::uint64_t most_per_byte(std::uint16_t compression) {
  switch (compression) {
    case COMPRESSION_NONE:
      return 1;
    case COMPRESSION_PACKBITS:
      return 64;
    case COMPRESSION_LZW:
      return 4096;  // a code has at least nine bits and stands for fewer than 4096 bytes
    case COMPRESSION_DEFLATE:
    case COMPRESSION_ADOBE_DEFLATE:
      return 1032;
    default:
      return 0;
  }
}

/// Refuses a file that is too short for its pixels, before memory is used for them.
void check_data(const PictureFile& file, TIFF* tiff, const ImageSize& size) {
  std::uint16_t compression = COMPRESSION_NONE;
  TIFFGetFieldDefaulted(tiff, TIFFTAG_COMPRESSION, &compression);
  const std::uint64_t ratio = most_per_byte(compression);
  if (ratio == 0) return;
  // For separate planes, this is one plane.
  const std::uint64_t bytes = TIFFScanlineSize64(tiff) * static_cast<std::uint64_t>(size.height);
  const std::uint64_t needed = (bytes + ratio - 1) / ratio;
  const std::uint64_t end = file.content.size();
  const std::uint32_t parts = TIFFIsTiled(tiff) != 0 ? TIFFNumberOfTiles(tiff) : TIFFNumberOfStrips(tiff);
  std::uint64_t present = 0;
  for (std::uint32_t part = 0; part < parts && present < needed; ++part) {
    const std::uint64_t behind = end - std::min<std::uint64_t>(TIFFGetStrileOffset(tiff, part), end);
    present += std::min<std::uint64_t>(TIFFGetStrileByteCount(tiff, part), behind);
  }
  if (present < needed)
    file.refuse(fmt::format("{} x {} pixels need at least {} bytes, but it has only {}; the file is cut off",
                            size.width, size.height, needed, present));
}

}  // namespace

ImageSize size_of_tiff(const PictureFile& file) {
  Complaints complaints;
  MemoryFile source{file.content};
  return checked_size(file, open_tiff(file, source, complaints).get());
}

Pixels decode_tiff(const PictureFile& file) {
  Complaints complaints;
  MemoryFile source{file.content};
  const TiffPointer tiff = open_tiff(file, source, complaints);
  const ImageSize size = checked_size(file, tiff.get());
  const auto width = static_cast<std::uint32_t>(size.width);
  const auto height = static_cast<std::uint32_t>(size.height);

  std::array<char, 1024> why{};
  TIFFRGBAImage image{};
  if (TIFFRGBAImageBegin(&image, tiff.get(), 1, why.data()) == 0) {
    file.refuse(why.data());
  }
  const std::unique_ptr<TIFFRGBAImage, void (*)(TIFFRGBAImage*)> end(&image, TIFFRGBAImageEnd);
  // Requests the rows as stored, because the orientation is applied later, as for all formats.
  image.req_orientation = image.orientation;
  check_data(file, tiff.get(), size);
  const std::size_t count = std::size_t{width} * height;
  // The system provides the memory of calloc when it is written. libtiff reads a strip before it writes there.
  const std::unique_ptr<std::uint32_t, void (*)(void*)> raster(
      static_cast<std::uint32_t*>(std::calloc(count, sizeof(std::uint32_t))), std::free);
  if (raster == nullptr) throw std::bad_alloc();
  if (TIFFRGBAImageGet(&image, raster.get(), width, height) == 0 || !complaints.first.empty()) {
    file.refuse(complaints.first.empty() ? "the TIFF file is corrupt" : complaints.first);
  }

  const Alpha alpha = kind_of_alpha(tiff.get());
  Pixels pixels(width, height, alpha == Alpha::straight ? 4 : 3);
  pixels.orientation = stored_orientation_of_tiff(file.content, xmp_of(tiff.get()));
  std::uint8_t* to = pixels.add_rows(height);
  for (const std::uint32_t pixel : std::span(raster.get(), count)) {
    const std::uint32_t white = alpha == Alpha::premultiplied ? 255 - TIFFGetA(pixel) : 0;
    *to++ = static_cast<std::uint8_t>(std::min(TIFFGetR(pixel) + white, 255U));
    *to++ = static_cast<std::uint8_t>(std::min(TIFFGetG(pixel) + white, 255U));
    *to++ = static_cast<std::uint8_t>(std::min(TIFFGetB(pixel) + white, 255U));
    if (alpha == Alpha::straight) {
      *to++ = static_cast<std::uint8_t>(TIFFGetA(pixel));
    }
  }
  return pixels;
}

}  // namespace biqa::image
