// SPDX-License-Identifier: Apache-2.0
// Reads the orientation from a TIFF directory, which is also the format of an EXIF block. No library is used, because
// Pillow accepts values that libraries reject: libexif does not know the types IFD and LONG8, and libtiff accepts no
// floating-point numbers here.
#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

#include "io/image_formats.h"

namespace biqa::image {

namespace {

using namespace std::string_view_literals;

/// A TIFF file, or an EXIF block without its prefix.
class TiffDirectory {
 public:
  explicit TiffDirectory(std::string_view bytes) : bytes_(bytes) {}

  /// Whether it begins like a TIFF file. `big_tiff` also allows the format with offsets of 8 bytes.
  bool read_header(bool big_tiff) {
    constexpr std::size_t kHeader = 8;
    if (bytes_.size() < kHeader) return false;
    const std::string_view mark = bytes_.substr(0, 4);
    big_endian_ = mark.starts_with("MM"sv);
    wide_ = mark == "MM\0+"sv || mark == "II+\0"sv;
    if (wide_) return big_tiff && bytes_.size() >= 2 * kHeader;
    // The bytes of the number 42 may be in the wrong order.
    return mark == "MM\0*"sv || mark == "II*\0"sv || mark == "MM*\0"sv || mark == "II\0*"sv;
  }

  /// The first directory's orientation: 0 if its value is not a number; nothing if the directory has none.
  std::optional<double> orientation() const {
    constexpr std::uint64_t kOrientation = 0x0112;
    const std::uint64_t offset_bytes = wide_ ? 8 : 4;
    const std::optional<std::uint64_t> start = number(offset_bytes, offset_bytes);
    const std::optional<std::uint64_t> entries = start ? number(*start, wide_ ? 8 : 2) : std::nullopt;
    if (!entries) return std::nullopt;
    std::uint64_t at = *start + (wide_ ? 8 : 2);
    std::uint64_t stored_elsewhere = 0;
    for (std::uint64_t i = 0; i < *entries; ++i, at += 4 + 2 * offset_bytes) {
      const std::optional<std::uint64_t> tag = number(at, 2), type = number(at + 2, 2);
      const std::optional<std::uint64_t> count = number(at + 4, offset_bytes);
      const std::optional<std::uint64_t> place = number(at + 4 + offset_bytes, offset_bytes);
      if (!place) return std::nullopt;
      const std::uint64_t unit = size_of(*type);
      if (unit == 0 || *count == 0) continue;
      std::uint64_t value = at + 4 + offset_bytes;
      if (*count > offset_bytes / unit) {
        value = *place;
        if (value >= std::uint64_t{1} << 63) continue;
        // Fields are skipped if all values together would be longer than the file.
        stored_elsewhere += *count > bytes_.size() / unit ? bytes_.size() + 1 : *count * unit;
        if (stored_elsewhere > bytes_.size()) continue;
        if (value > bytes_.size() || *count * unit > bytes_.size() - value) return std::nullopt;
      }
      if (*tag == kOrientation) return value_at(value, *type);
    }
    return std::nullopt;
  }

 private:
  enum Type : std::uint64_t {
    kByte = 1,
    kText,
    kShort,
    kLong,
    kRational,
    kSignedByte,
    kUndefined,
    kSignedShort,
    kSignedLong,
    kSignedRational,
    kFloat,
    kDouble,
    kDirectory,
    kLong8 = 16
  };

  /// Bytes of one value; 0 for unknown types.
  static std::uint64_t size_of(std::uint64_t type) {
    switch (type) {
      case kByte:
      case kText:
      case kSignedByte:
      case kUndefined:
        return 1;
      case kShort:
      case kSignedShort:
        return 2;
      case kLong:
      case kSignedLong:
      case kFloat:
      case kDirectory:
        return 4;
      case kRational:
      case kSignedRational:
      case kDouble:
      case kLong8:
        return 8;
      default:
        return 0;
    }
  }

  /// Reads an unsigned integer. Returns nothing if it ends after the end of the file.
  std::optional<std::uint64_t> number(std::uint64_t at, std::uint64_t bytes) const {
    if (at > bytes_.size() || bytes > bytes_.size() - at) return std::nullopt;
    std::uint64_t value = 0;
    for (std::uint64_t i = 0; i < bytes; ++i)
      value = value << 8 | static_cast<std::uint8_t>(bytes_[at + (big_endian_ ? i : bytes - 1 - i)]);
    return value;
  }

  /// The first value of a field inside the file; 0 for texts and bytes, which are no numbers to Pillow either.
  double value_at(std::uint64_t at, std::uint64_t type) const {
    const auto bits = [&](std::uint64_t from, std::uint64_t bytes) {
      return number(from, bytes).value_or(0);
    };
    const auto bits_32 = [&](std::uint64_t from) { return static_cast<std::uint32_t>(bits(from, 4)); };
    const auto signed_32 = [&](std::uint64_t from) { return static_cast<std::int32_t>(bits_32(from)); };
    switch (type) {
      case kShort:
      case kLong:
      case kDirectory:
      case kLong8:
        return static_cast<double>(bits(at, size_of(type)));
      case kSignedByte:
        return static_cast<std::int8_t>(bits(at, 1));
      case kSignedShort:
        return static_cast<std::int16_t>(bits(at, 2));
      case kSignedLong:
        return signed_32(at);
      case kRational:
        return static_cast<double>(bits_32(at)) / bits_32(at + 4);
      case kSignedRational:
        return static_cast<double>(signed_32(at)) / signed_32(at + 4);
      case kFloat:
        return std::bit_cast<float>(bits_32(at));
      case kDouble:
        return std::bit_cast<double>(bits(at, 8));
      default:
        return 0;
    }
  }

  std::string_view bytes_;
  bool big_endian_ = false;
  bool wide_ = false;  ///< BigTIFF
};

int valid_orientation(double code) {
  for (int known = 2; known <= 8; ++known) {
    if (code == known) return known;
  }
  return 1;
}

/// The orientation in an XMP packet, as attribute or as element; 1 if there is none.
int xmp_orientation(std::string_view packet) {
  constexpr std::string_view kName = "tiff:Orientation";
  for (std::size_t at = packet.find(kName); at != std::string_view::npos; at = packet.find(kName, at + 1)) {
    std::string_view rest = packet.substr(at + kName.size());
    if (rest.starts_with("=\""))
      rest.remove_prefix(2);
    else if (rest.starts_with(">"))
      rest.remove_prefix(1);
    else
      continue;
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return valid_orientation(rest[0] - '0');
  }
  return 1;
}

int orientation_of(TiffDirectory directory, bool big_tiff, std::string_view xmp) {
  if (!directory.read_header(big_tiff)) return 1;
  const std::optional<double> told = directory.orientation();
  return told ? valid_orientation(*told) : xmp_orientation(xmp);
}

}  // namespace

int stored_orientation(Bytes exif, std::string_view xmp) {
  constexpr std::string_view kPrefix("Exif\0\0", 6);
  std::string_view block = as_text(exif);
  // Some programs write the prefix twice.
  for (int i = 0; i < 2 && block.starts_with(kPrefix); ++i) block.remove_prefix(kPrefix.size());
  return block.empty() ? xmp_orientation(xmp) : orientation_of(TiffDirectory(block), false, xmp);
}

int stored_orientation_of_tiff(Bytes file, std::string_view xmp) {
  return orientation_of(TiffDirectory(as_text(file)), true, xmp);
}

}  // namespace biqa::image
